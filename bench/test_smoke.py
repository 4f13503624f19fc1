# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The benchmark works and counts correctly. These tests need no other servers."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.__main__ import SMOKE, run
from bench.generator import MARK, PROTOCOL_PING, BenchError, Client, Generator, Step, payload
from bench.peers.ws_server import WsServer
from bench.report import report


@contextmanager
def conversation(*answers: bytes) -> Iterator[tuple[Generator, Client]]:
    """A connected client, whose server sends these answers as separate segments."""
    go = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _address = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(100)
                connection.sendall(b"welcome")
                go.wait(20)
                for answer in answers:
                    connection.sendall(answer)
                    time.sleep(0.02)
                with contextlib.suppress(ConnectionResetError):
                    connection.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        generator = Generator()
        try:
            (client,) = generator.connect(
                "a server",
                server.getsockname()[1],
                ["r"],
                lambda _number, _room: [Step(b"hello", b"welcome")],
                PROTOCOL_PING,
            )
            go.set()
            yield generator, client
            generator.disconnect([client])
        finally:
            go.set()
            thread.join(20)


def test_a_payload_has_64_bytes_and_one_mark():
    for number in (1, 999_999_999):
        assert len(payload(number)) == 64
        assert payload(number).count(MARK) == 1


@pytest.mark.parametrize("cut", range(-1, len(MARK) + 2))
def test_a_delivery_counts_once_wherever_it_is_cut(cut):
    message = payload(7)
    cut += message.index(MARK)
    with conversation(message[:cut], message[cut:] + message) as (generator, client):
        generator.await_deliveries(2)
        generator.read_for(0.01)
        assert client.delivered == 2


def test_a_mark_that_comes_byte_by_byte_counts_once():
    with conversation(*(bytes([byte]) for byte in b"x" + MARK + b"x"), MARK) as (generator, client):
        generator.await_deliveries(2)
        generator.read_for(0.01)
        assert client.delivered == 2


def test_a_disconnected_client_ends_the_run():
    with conversation() as (generator, client):
        client.socket.shutdown(socket.SHUT_RD)
        with pytest.raises(BenchError, match="a server: client 0 was disconnected"):
            generator.await_deliveries(1)


def test_ws_server_is_measured():
    """A small complete run, which raises BenchError if a message is missing or arrives twice."""
    results = run([WsServer()], SMOKE)
    page = report(results)
    assert "| ws-server |" in page
    assert [step["connections"] for step in results["growth"]["ws-server"]["steps"]] == list(SMOKE.steps)
    assert all(sample["server_us"] > 0 for sample in results["one_room"]["ws-server"][50])
