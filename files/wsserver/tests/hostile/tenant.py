# SPDX-License-Identifier: MIT
"""One user with an ordinary token, who asks for as much as the limits allow.

`python -m hostile.tenant ATTACK SECONDS PORT...` runs one attack against workers on these ports, and
prints how many of each answer came.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from support.wire import text, upgrade_request
from support.worker import SECRET

from wsserver.auth import mint

USER = "mallory"
_CONNECTIONS = 40  # of the 50 that a user may have
_CHUNK = 1 << 16
# Written at once: more than a worker reads, so that the worker decides how fast this user is.
_BURST_BYTES = 2 * 16384

Commands = Iterator[dict[str, Any]]


def history(_connection: int) -> Commands:
    return itertools.repeat({"type": "history", "room": "chat-0", "limit": 100})


def presence(_connection: int) -> Commands:
    return itertools.repeat({"type": "presence", "room": "chat-0"})


def fresh_rooms(connection: int) -> Commands:
    for n in itertools.count():
        yield {"type": "join", "room": f"fresh-{connection}-{n}"}
        yield {"type": "leave", "room": f"fresh-{connection}-{n}"}


def memberships(connection: int) -> Commands:
    for n in itertools.count():
        yield {"type": "join", "room": f"{'long' * 25}-{connection}-{n}", "members": True}


def publish_to_fresh_rooms(connection: int) -> Commands:
    for n in itertools.count():
        yield {"type": "publish", "room": f"fresh-{connection}-{n}", "data": 1, "id": str(n)}


def publish_large(connection: int) -> Commands:
    data = "x" * 60_000
    for n in itertools.count():
        yield {"type": "publish", "room": f"large-{connection % 4}", "data": data, "id": f"{connection}-{n}"}


def publish_brackets(connection: int) -> Commands:
    for n in itertools.count():
        yield {"type": "publish", "room": "chat-1", "data": [[]] * 20_000, "id": f"{connection}-{n}"}


def tokens(_connection: int) -> Commands:
    return itertools.repeat({"type": "auth", "token": mint(SECRET, USER, 600)})


def pings(_connection: int) -> Commands:
    return itertools.repeat({"type": "ping"})


# `unread`: as `history`, without reading the answers.
ATTACKS: dict[str, Callable[[int], Commands]] = {
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


async def session(port: int, commands: Commands, reads: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_CHUNK)
    try:
        writer.transport.set_write_buffer_limits(high=_BURST_BYTES)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BURST_BYTES)
        writer.write(upgrade_request(Authorization=f"Bearer {mint(SECRET, USER, 600)}", X_Real_IP="192.0.2.66"))
        await reader.readuntil(b"\r\n\r\n")
        reading = asyncio.create_task(discarded(reader)) if reads else None
        try:
            while not writer.is_closing():
                writer.write(burst(commands))
                await writer.drain()
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


async def handshakes(port: int, answers: Counter[str]) -> None:
    """Bad requests, one after the other."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(upgrade_request(Authorization="Bearer wrong", X_Real_IP="192.0.2.66"))
        answers[(await reader.read(_CHUNK))[9:12].decode()] += 1
        writer.transport.abort()


async def attack(name: str, seconds: float, ports: list[int]) -> Counter[str]:
    ran: Counter[str] = Counter()

    async def again_and_again(number: int) -> None:
        port = ports[number % len(ports)]
        while True:
            # A refused or closed connection comes back, like that of a determined user.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if name == HANDSHAKES:
                    await handshakes(port, ran)
                else:
                    ran["connections"] += 1
                    await session(port, ATTACKS[name](number), reads=name != "unread")
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
    print(json.dumps(asyncio.run(attack(sys.argv[1], float(sys.argv[2]), list(map(int, sys.argv[3:]))))))
