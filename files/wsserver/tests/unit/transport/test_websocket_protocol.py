# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest
from support.wire import client_frame, server_frames, text, upgrade_request
from websockets.frames import Opcode
from websockets.http11 import Request

from wsserver.transport.websocket_protocol import WebSocketProtocol


def opened(max_message_bytes: int = 1024) -> WebSocketProtocol:
    wire = WebSocketProtocol(max_message_bytes)
    [request] = wire.receive(upgrade_request())
    assert isinstance(request, Request)
    wire.send_response(wire.accept(request))
    assert wire.data_to_send()[0].startswith(b"HTTP/1.1 101 ")
    return wire


def sent(wire: WebSocketProtocol) -> bytes:
    return b"".join(wire.data_to_send())


def closed_with(wire: WebSocketProtocol) -> int:
    *_, close = server_frames(sent(wire))
    assert close.opcode is Opcode.CLOSE
    return int.from_bytes(close.data[:2], "big")


def test_messages_come_whole_however_the_bytes_are_cut() -> None:
    data = text("one") + text("", fin=True) + text("tw", fin=False) + client_frame(Opcode.CONT, b"o") + text("three")
    expected = [b"one", b"", b"two", b"three"]
    assert opened().receive(data) == expected
    wire = opened()
    assert [message for byte in data for message in wire.receive(bytes([byte]))] == expected


def test_control_frames_between_fragments() -> None:
    wire = opened()
    data = text("a", fin=False) + client_frame(Opcode.PING, b"p") + client_frame(Opcode.CONT, b"b", fin=False)
    assert wire.receive(data) == []
    assert wire.receive(client_frame(Opcode.PONG, b"") + client_frame(Opcode.CONT, b"c")) == [b"abc"]
    assert [(f.opcode, f.data) for f in server_frames(sent(wire))] == [(Opcode.PONG, b"p")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(Opcode.BINARY, b"x"), 1003),
        (client_frame(Opcode.BINARY, b"x", fin=False) + client_frame(Opcode.CONT, b"x"), 1003),
        (text("x" * 1025), 1009),
        (text("x" * 1000, fin=False) + client_frame(Opcode.CONT, b"x" * 25), 1009),
        (b"\x81\xff" + (2**62).to_bytes(8, "big") + b"mask", 1009),
        (client_frame(Opcode.TEXT, b"x", mask=False), 1002),
        (client_frame(Opcode.CONT, b"x"), 1002),
        (text("a", fin=False) + text("b"), 1002),
        (b"\xc1\x80mask", 1002),  # a reserved bit
        (b"\x83\x80mask", 1002),  # a reserved opcode
        (b"\x89\xfe\x00\x80mask" + b"x" * 128, 1002),  # a control frame that is too long
        (b"\x88\x81maskx", 1002),  # a close frame of one byte
        (client_frame(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
    ],
    # The bytes are no ids: masks are random, and all test processes need the same ids.
    ids=[
        "binary",
        "binary in fragments",
        "text too long",
        "fragments too long",
        "a length of 2^62",
        "no mask",
        "a continuation of nothing",
        "a text within a text",
        "a reserved bit",
        "a reserved opcode",
        "a control frame too long",
        "a close frame of one byte",
        "a close reason that is no UTF-8",
    ],
)
def test_violations_of_the_protocol_are_closed_with_a_code(data: bytes, code: int) -> None:
    wire = opened()
    assert wire.receive(text("before") + data + text("after")) == [b"before"]
    assert closed_with(wire) == code
    assert wire.receive(text("later")) == []
    assert wire.data_to_send() == []


def test_a_message_of_the_largest_size_passes() -> None:
    assert opened().receive(text("x" * 1024)) == [b"x" * 1024]
    pieces = text("x" * 1000, fin=False) + client_frame(Opcode.CONT, b"x" * 24)
    assert opened().receive(pieces + pieces) == [b"x" * 1024] * 2


def test_the_clients_close_is_answered_with_its_code() -> None:
    wire = opened()
    assert wire.receive(text("last") + client_frame(Opcode.CLOSE, (4000).to_bytes(2, "big") + b"bye")) == [b"last"]
    assert closed_with(wire) == 4000


def test_frames_that_come_with_the_request_wait_for_its_answer() -> None:
    wire = WebSocketProtocol(1024)
    data = upgrade_request() + text("early") + client_frame(Opcode.PING, b"p")
    [request] = wire.receive(data)
    assert isinstance(request, Request)
    assert wire.data_to_send() == []
    assert wire.receive(b"") == [], "taken before the answer"
    wire.send_response(wire.accept(request))
    assert wire.receive(b"") == [b"early"]
    answer, pong = wire.data_to_send()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert server_frames(pong)[0].data == b"p"


def test_frames_behind_a_refused_request_are_not_taken() -> None:
    wire = WebSocketProtocol(1024)
    [request] = wire.receive(upgrade_request(Sec_WebSocket_Version="7") + text("early"))
    assert isinstance(request, Request)
    wire.send_response(wire.accept(request))
    assert wire.receive(b"") == []
    assert sent(wire).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET /ws HTTP/2.0\r\n\r\n", b"400"),
        (b"GET /ws HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET /ws HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"400"),
        (b"GET /ws HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 10_000, b"414"),
        (b"GET /ws HTTP/1.1\r\nX: " + b"x" * 10_000, b"431"),
        (b"GET /ws HTTP/1.1\r\n" + b"X: x\r\n" * 1000, b"431"),
    ],
)
def test_a_bad_request_is_answered_and_closed(data: bytes, status: bytes) -> None:
    wire = WebSocketProtocol(1024)
    assert wire.receive(data) == []
    *answer, end = wire.data_to_send()
    assert b"".join(answer).startswith(b"HTTP/1.1 " + status + b" ")
    assert end == b""
    assert wire.receive(b"more") == []
    assert wire.data_to_send() == []


def test_the_answer_to_a_request_that_is_too_large_names_the_limit_and_the_remedy() -> None:
    for data, parts in (
        (b"GET /" + b"x" * 10_000, ("URL", "8192 bytes")),
        (b"GET /ws HTTP/1.1\r\nX: " + b"x" * 10_000, ("headers", "8192 bytes", "ticket")),
        (b"GET /ws HTTP/1.1\r\n" + b"X: x\r\n" * 1000, ("headers", "at most 128")),
    ):
        wire = WebSocketProtocol(1024)
        assert wire.receive(data) == []
        answer = sent(wire).decode()
        assert "Content-Type: text/plain" in answer
        for part in parts:
            assert part in answer.partition("\r\n\r\n")[2]


def test_only_the_bearer_subprotocol_is_chosen() -> None:
    for offered, chosen in (("bearer, token", "bearer"), ("chat", None), ("chat, bearer", "bearer")):
        wire = WebSocketProtocol(1024)
        [request] = wire.receive(upgrade_request(Sec_WebSocket_Protocol=offered))
        assert isinstance(request, Request)
        assert wire.accept(request).headers.get("Sec-WebSocket-Protocol") == chosen
