# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The load: thousands of WebSocket clients in one thread, with epoll and non-blocking sockets.

The generator does not decode deliveries. It counts them for each client by a mark that every
payload contains once. So the generator costs less than any server under test, and still detects
messages that are missing or arrive twice.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

# The mark is once in every payload, and nowhere else, even by chance in the random bytes of a ping.
MARK = b"<--->"
_KEPT = len(MARK) - 1
DELIVERY = re.compile(rb'"n":(\d+)')
ACK = re.compile(rb'"id":"(\d+)"')
_REFUSAL = re.compile(rb'^HTTP/1.1 [45]|"type":"error"|-ERR')
# A delivery that is missing after this time counts as lost.
_PATIENCE_S = 30.0
_AT_ONCE = 64


class Step(NamedTuple):
    """The bytes that a client sends, and a part of the answer that it waits for."""

    send: bytes
    expect: bytes


class BenchError(Exception):
    """The run cannot continue; the text has the reason."""


class Watch:
    """Matches of a pattern: the client's number, the message's number, and the time."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern = pattern
        self.seen: list[tuple[int, int, float]] = []


class Client:
    """One connection. `delivered` counts its messages; `steps` are left before it only counts."""

    __slots__ = ("delivered", "heard", "number", "receive", "room", "server", "socket", "steps", "tail", "waits_for")

    def __init__(self, server: str, number: int, room: str, steps: Iterable[Step], bind: str) -> None:
        self.server = server
        self.number = number
        self.room = room
        self.steps = iter(steps)
        self.delivered = 0
        self.tail = b""  # the last bytes that were read, if a mark may have begun in them
        self.heard = b""
        self.waits_for: bytes | None = b""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A reset at the end, so that no socket stays in TIME_WAIT.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.bind((bind, 0))
        self.receive: Callable[[bytearray], int] = self.socket.recv_into

    def __str__(self) -> str:
        return f"{self.server}: client {self.number}"


class Generator:
    """All clients of a run. `delivered` counts their messages; `watch` records matches, if set."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._pings: dict[int, tuple[bytes, bytes]] = {}
        self._buffer = bytearray(256 * 1024)
        self._busy = 0
        self.delivered = 0
        self.watch: Watch | None = None

    # Clients.

    def connect(
        self,
        server: str,
        port: int,
        rooms: Sequence[str],
        steps: Callable[[int, str], list[Step]],
        ping: tuple[bytes, bytes],
        *,
        first: int = 0,
    ) -> list[Client]:
        """Connect a client for each of `rooms`, numbered from `first` on, 64 at a time.

        `server` is the name for errors; `ping` is a heartbeat of the server and its answer. Raises
        BenchError.
        """
        clients: list[Client] = []
        for number, room in enumerate(rooms, first):
            # Many source addresses, because each has at most 28,000 ports.
            client = Client(server, number, room, steps(number, room), f"127.0.1.{1 + number % 200}")
            fd = client.socket.fileno()
            self._clients[fd] = client
            self._pings[fd] = ping
            self._busy += 1
            client.socket.connect_ex(("127.0.0.1", port))
            self._epoll.register(fd, select.EPOLLOUT)
            clients.append(client)
            self._pump_until(lambda: self._busy < _AT_ONCE, "a handshake")
        self._pump_until(lambda: self._busy == 0, "a handshake")
        return clients

    def converse(self, clients: Sequence[Client], steps: Callable[[Client], list[Step]]) -> None:
        """Let each client take more steps. Raises BenchError."""
        for client in clients:
            client.steps = iter(steps(client))
            self._busy += 1
            self._next_step(client)
            self._pump_until(lambda: self._busy < _AT_ONCE, "an answer")
        self._pump_until(lambda: self._busy == 0, "an answer")

    def _next_step(self, client: Client) -> None:
        step = next(client.steps, None)
        if step is None:
            client.waits_for = None
            client.heard = b""
            self._busy -= 1
            return
        client.waits_for = step.expect
        client.heard = b""
        client.socket.send(step.send)

    def disconnect(self, clients: Iterable[Client]) -> None:
        for client in clients:
            fd = client.socket.fileno()
            del self._clients[fd], self._pings[fd]
            client.socket.close()

    # Traffic.

    def send(self, client: Client, data: bytes) -> None:
        sent = client.socket.send(data)
        if sent != len(data):
            raise BenchError(f"{client} could send only {sent} of {len(data)} bytes")

    def await_deliveries(self, total: int) -> None:
        """Read until `total` messages have been delivered in all. Raises BenchError."""
        self._pump_until(lambda: self.delivered >= total, f"delivery number {total}")

    def await_sightings(self, watch: Watch, total: int) -> None:
        """Read until `total` matches have been recorded. Raises BenchError."""
        self._pump_until(lambda: len(watch.seen) >= total, f"match number {total}")

    def read_for(self, seconds: float) -> None:
        """Read all data for some seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._pump(left)

    def _pump_until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not done():
            if self._pump(1.0):
                deadline = time.monotonic() + _PATIENCE_S
            elif time.monotonic() > deadline:
                raise BenchError(
                    f"{what} did not arrive within {_PATIENCE_S:.0f} s ({self.delivered} delivered so far)"
                )

    def _pump(self, timeout: float) -> bool:
        """Read once from each socket that has data. Return whether any had."""
        buffer = self._buffer
        clients = self._clients
        ready = self._epoll.poll(timeout, 1024)
        for fd, _events in ready:
            client = clients[fd]
            if client.waits_for is not None:
                self._talk(client)
                continue
            try:
                size = client.receive(buffer)
            except OSError as exc:
                raise BenchError(f"{client} was disconnected: {exc}") from exc
            if not size:
                raise BenchError(f"{client} was disconnected")
            marks = buffer.count(MARK, 0, size)
            if client.tail or buffer[size - 1] in MARK:
                marks += self._cut_in_two(client, size)
            if marks:
                client.delivered += marks
                self.delivered += marks
            if (watch := self.watch) is not None:
                now = time.perf_counter()
                watch.seen += [(client.number, int(number), now) for number in watch.pattern.findall(buffer, 0, size)]
            ping, pong = self._pings[fd]
            if buffer.find(ping, 0, size) >= 0:
                client.socket.send(pong)
        return bool(ready)

    def _cut_in_two(self, client: Client, size: int) -> int:
        """Count marks that begin in the previous bytes and end in the new ones."""
        begin, end = self._buffer[: min(size, _KEPT)], self._buffer[max(0, size - _KEPT) : size]
        marks = (client.tail + begin).count(MARK)
        client.tail = (client.tail + end)[-_KEPT:] if end[-1] in MARK else b""
        return marks

    def _talk(self, client: Client) -> None:
        fd = client.socket.fileno()
        if client.waits_for == b"":  # connected
            self._epoll.modify(fd, select.EPOLLIN)
            self._next_step(client)
            return
        try:
            data = client.socket.recv(65536)
        except OSError as exc:
            raise BenchError(f"{client} was disconnected: {exc}") from exc
        client.heard += data
        ping, pong = self._pings[fd]
        if ping in data:
            client.socket.send(pong)
        if client.waits_for is not None and client.waits_for in client.heard:
            self._next_step(client)
        elif not data or _REFUSAL.search(client.heard):
            raise BenchError(f"{client} waits for {client.waits_for!r} and got {client.heard[-300:]!r}")


def text_frame(payload: bytes) -> bytes:
    """A client's text frame, masked with zeros, which the server must unmask, too."""
    return _frame(0x81, payload)


def binary_frame(payload: bytes) -> bytes:
    return _frame(0x82, payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes((first,)) + length + b"\0\0\0\0" + payload


# The first byte of a protocol ping occurs in no text. An unsolicited pong is allowed.
PROTOCOL_PING = (b"\x89", _frame(0x8A, b""))


def upgrade(path: str, *headers: str) -> bytes:
    """A WebSocket handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def payload(number: int) -> bytes:
    """A message's JSON: 64 bytes, with its number and the mark."""
    text = b'{"n":%d,"text":"' % number + MARK
    return text + b"." * (62 - len(text)) + b'"}'
