# SPDX-License-Identifier: MIT
"""One user with an ordinary token, who asks for as much as the limits allow.

`python -m hostile.tenant ATTACK SECONDS` reads a `Target` from standard input as JSON, runs one
attack against it, and prints how many of each answer came.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from support.wire import text, upgrade_request

from wsserver.auth import mint

USER = "mallory"
_CONNECTIONS = 40  # of the 50 that a user may have
_CHUNK = 1 << 16
# Written at once: more than a worker reads, so that the worker decides how fast this user is.
_BURST_BYTES = 2 * 16384

Commands = Iterator[dict[str, Any]]


class Target(NamedTuple):
    """The WebSocket URLs of the service, its key for HS256, and the file of its authority, if any."""

    urls: list[str]
    secret: str
    ca_file: str | None = None

    def token(self) -> str:
        return mint(self.secret, USER, 600)

    async def connect(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = urlsplit(self.urls[number % len(self.urls)])
        trust = ssl.create_default_context(cafile=self.ca_file) if url.scheme == "wss" else None
        port = url.port or (443 if trust else 80)
        return await asyncio.open_connection(url.hostname, port, ssl=trust, limit=_CHUNK)


def history(_target: Target, _connection: int) -> Commands:
    return itertools.repeat({"type": "history", "room": "chat-0", "limit": 100})


def presence(_target: Target, _connection: int) -> Commands:
    return itertools.repeat({"type": "presence", "room": "chat-0"})


def fresh_rooms(_target: Target, connection: int) -> Commands:
    for n in itertools.count():
        yield {"type": "join", "room": f"fresh-{connection}-{n}"}
        yield {"type": "leave", "room": f"fresh-{connection}-{n}"}


def memberships(_target: Target, connection: int) -> Commands:
    for n in itertools.count():
        yield {"type": "join", "room": f"{'long' * 25}-{connection}-{n}", "members": True}


def publish_to_fresh_rooms(_target: Target, connection: int) -> Commands:
    for n in itertools.count():
        yield {"type": "publish", "room": f"fresh-{connection}-{n}", "data": 1, "id": str(n)}


def publish_large(_target: Target, connection: int) -> Commands:
    data = "x" * 60_000
    for n in itertools.count():
        yield {"type": "publish", "room": f"large-{connection % 4}", "data": data, "id": f"{connection}-{n}"}


def publish_brackets(_target: Target, connection: int) -> Commands:
    for n in itertools.count():
        yield {"type": "publish", "room": "chat-1", "data": [[]] * 20_000, "id": f"{connection}-{n}"}


def tokens(target: Target, _connection: int) -> Commands:
    return itertools.repeat({"type": "auth", "token": target.token()})


def pings(_target: Target, _connection: int) -> Commands:
    return itertools.repeat({"type": "ping"})


# `unread`: as `history`, without reading the answers.
ATTACKS: dict[str, Callable[[Target, int], Commands]] = {
    "history": history,
    "unread": history,
    "presence": presence,
    "fresh_rooms": fresh_rooms,
    "memberships": memberships,
    "publish_to_fresh_rooms": publish_to_fresh_rooms,
    "publish_large": publish_large,
    "publish_brackets": publish_brackets,
    "tokens": tokens,
    "pings": pings,
}
HANDSHAKES = "handshakes"
NAMES = [*ATTACKS, HANDSHAKES]


async def session(target: Target, number: int, name: str) -> None:
    commands = ATTACKS[name](target, number)
    reader, writer = await target.connect(number)
    try:
        writer.transport.set_write_buffer_limits(high=_BURST_BYTES)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BURST_BYTES)
        writer.write(upgrade_request(Authorization=f"Bearer {target.token()}", X_Real_IP="192.0.2.66"))
        await reader.readuntil(b"\r\n\r\n")
        reading = asyncio.create_task(discarded(reader)) if name != "unread" else None
        try:
            while not writer.is_closing():
                writer.write(burst(commands))
                await writer.drain()
                await asyncio.sleep(0)  # over TLS, only the event loop tells that the connection is lost
        finally:
            if reading is not None:
                reading.cancel()
    finally:
        writer.transport.abort()


def burst(commands: Commands) -> bytes:
    frames = bytearray()
    command: dict[str, Any] = {}
    while len(frames) < _BURST_BYTES:
        before, command = command, next(commands)
        if command is not before:  # else the frame is the same, too
            frame = text(json.dumps(command))
        frames += frame
    return bytes(frames)


async def discarded(reader: asyncio.StreamReader) -> None:
    while await reader.read(_CHUNK):
        pass


async def handshakes(target: Target, number: int, answers: Counter[str]) -> None:
    """Bad requests, one after the other."""
    while True:
        reader, writer = await target.connect(number)
        writer.write(upgrade_request(Authorization="Bearer wrong", X_Real_IP="192.0.2.66"))
        answers[(await reader.read(_CHUNK))[9:12].decode()] += 1
        writer.transport.abort()


async def attack(name: str, seconds: float, target: Target) -> Counter[str]:
    ran: Counter[str] = Counter()

    async def again_and_again(number: int) -> None:
        while True:
            # A refused or closed connection comes back, like that of a determined user.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if name == HANDSHAKES:
                    await handshakes(target, number, ran)
                else:
                    ran["connections"] += 1
                    await session(target, number, name)
            await asyncio.sleep(0.1)

    attackers = [asyncio.create_task(again_and_again(number)) for number in range(_CONNECTIONS)]
    await asyncio.wait(attackers, timeout=seconds)
    failed = [task.exception() for task in attackers if task.done()]
    for task in attackers:
        task.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    assert not failed, failed
    return ran


if __name__ == "__main__":
    print(json.dumps(asyncio.run(attack(sys.argv[1], float(sys.argv[2]), Target(**json.load(sys.stdin))))))
