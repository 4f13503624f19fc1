# SPDX-License-Identifier: MIT
"""The WebSocket protocol with random bytes: the outcome does not depend on how the bytes are cut."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st
from support.wire import client_frame, server_frames, text, upgrade_request
from websockets.frames import EXTERNAL_CLOSE_CODES, Opcode
from websockets.http11 import Request

from wsserver.transport.websocket_protocol import WebSocketProtocol

_LARGEST = 1024


class Outcome(NamedTuple):
    received: list[Request | bytes]
    sent: bytes
    close_code: int | None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def fed(wire: WebSocketProtocol, pieces: list[bytes]) -> Outcome:
    received = [item for piece in pieces for item in wire.receive(piece)]
    return Outcome(received, b"".join(wire.data_to_send()), wire.close_sent.code if wire.close_sent else None)


def opened() -> WebSocketProtocol:
    wire = WebSocketProtocol(_LARGEST)
    [request] = wire.receive(upgrade_request())
    assert isinstance(request, Request)
    wire.send_response(wire.accept(request))
    wire.data_to_send()
    return wire


def frame(first: int, payload: bytes, masked: bool = True) -> bytes:
    """A short frame with any flags and opcode; the mask is zero."""
    assert len(payload) < 126
    return bytes([first, len(payload) | (0x80 if masked else 0)]) + bytes(4 if masked else 0) + payload


@st.composite
def raw_frames(draw: st.DrawFn) -> bytes:
    """Any head, valid or not, before some bytes."""
    head = bytes([draw(st.integers(0, 255)), draw(st.integers(0, 255))])
    length = draw(st.sampled_from([b"", struct.pack("!H", 130), struct.pack("!Q", 2**16), struct.pack("!Q", 2**63)]))
    return head + length + draw(st.binary(max_size=160))


_texts = st.text(max_size=30).map(str.encode)
_payloads = _texts | st.binary(max_size=30)
_close_codes = st.sampled_from([0, 999, 1000, 1001, 1005, 1006, 1012, 1015, 2999, 3000, 4999, 5000, 65535])
_whole = _texts.map(text)
_fragmented = st.lists(_texts, min_size=2, max_size=5).map(
    lambda parts: b"".join(
        client_frame(Opcode.CONT if n else Opcode.TEXT, part, fin=n == len(parts) - 1) for n, part in enumerate(parts)
    )
)
_odd = st.builds(frame, st.integers(0, 255), _payloads.filter(lambda data: len(data) < 126), st.booleans())
_close = st.builds(lambda code, why: frame(0x88, struct.pack("!H", code) + why[:100]), _close_codes, _payloads)
_large = st.integers(_LARGEST - 2, _LARGEST + 2).map(lambda size: text("x" * size))
_frames = st.one_of(_whole, _whole, _fragmented, _odd, _close, _large, raw_frames())
_streams = st.lists(_frames, max_size=8).map(b"".join)
_places = st.lists(st.integers(0, 10_000), max_size=12)


@given(_streams, _places)
@example(client_frame(Opcode.BINARY, b"x") + client_frame(Opcode.PING, b"late"), [7])
@example(text(b"\xff") + client_frame(Opcode.CLOSE, b"\x03\xe8"), [7])
def test_frames_have_one_outcome_however_they_are_cut(data: bytes, places: list[int]) -> None:
    whole = fed(opened(), [data])
    assert fed(opened(), cut(data, places)) == whole
    assert fed(opened(), [bytes([byte]) for byte in data]) == whole
    for message in whole.received:
        assert isinstance(message, bytes)
        assert len(message) <= _LARGEST
        message.decode()
    sent = server_frames(whole.sent)
    assert all(frame.opcode in (Opcode.PONG, Opcode.CLOSE) for frame in sent)
    assert [frame.opcode for frame in sent].count(Opcode.CLOSE) == (whole.close_code is not None)
    assert whole.close_code in {None, 1002, 1003, 1005, 1007, 1009} | EXTERNAL_CLOSE_CODES | set(range(3000, 5000))


@given(st.lists(_texts, min_size=1, max_size=6), st.data())
def test_messages_come_whole_whatever_pings_and_cuts_are_between(messages: list[bytes], data: st.DataObject) -> None:
    stream = b""
    for message in messages:
        parts = cut(message, data.draw(st.lists(st.integers(0, 100), max_size=3)))
        for n, part in enumerate(parts):
            stream += client_frame(Opcode.CONT if n else Opcode.TEXT, part, fin=n == len(parts) - 1)
            stream += data.draw(st.sampled_from([b"", b"", client_frame(Opcode.PING, b"p"), b"\x8a\x80mask"]))
    assert fed(opened(), cut(stream, data.draw(_places))).received == messages


_lines = st.sampled_from(
    [b"GET /ws HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"POST /ws HTTP/1.1\r\n", b"GET\r\n", b"\r\n"]
)
_headers = st.lists(
    st.sampled_from(
        [
            *(line + b"\r\n" for line in upgrade_request().split(b"\r\n")[1:-2]),
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Sec-WebSocket-Key: short\r\n",
            b"Sec-WebSocket-Version: 8, 13\r\n",
            b"Connection: , Upgrade,,\r\n",
            b" folded\r\n",
            b"no colon\r\n",
            b"X: \xff\x00\r\n",
            b"X: y\n",
        ]
    ),
    max_size=12,
).map(b"".join)
_requests = st.one_of(
    st.binary(max_size=300),
    st.tuples(_lines, _headers, st.just(b"\r\n"), st.binary(max_size=20)).map(b"".join),
    st.tuples(st.just(upgrade_request()), st.integers(0, 200), st.binary(min_size=1, max_size=3)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
    ),
)


@given(_requests, _places)
def test_any_handshake_is_accepted_answered_or_awaited(data: bytes, places: list[int]) -> None:
    def shaken(pieces: list[bytes]) -> tuple[bytes, int]:
        wire = WebSocketProtocol(_LARGEST)
        sent, requests = b"", 0
        for piece in pieces:
            for item in wire.receive(piece):
                assert isinstance(item, Request)
                requests += 1
                # Some answers have a date.
                wire.send_response(wire.accept(item))
            sent += b"".join(wire.data_to_send())
        return sent.partition(b"\r\n")[0], requests

    whole = shaken([data])
    assert shaken(cut(data, places)) == whole
    assert whole[1] <= 1
    assert whole[0] == b"" or whole[0].startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 4", b"HTTP/1.1 505 ")), whole[0]
