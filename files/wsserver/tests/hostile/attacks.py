# SPDX-License-Identifier: MIT
"""Hostile or careless clients. Each is a coroutine that ends by itself or is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any

import jwt
from support.wire import client_frame, text, upgrade_request
from support.worker import SECRET
from websockets.frames import Opcode

from wsserver.auth import mint

_CHUNK = 1 << 16
# Longer than the worker waits for an unanswered ping, in this test.
_DEADLINE_S = 8


class Target:
    """The address of the worker, and a random generator of this attacker."""

    def __init__(self, port: int, chance: Random) -> None:
        self.port = port
        self.chance = chance

    @contextlib.asynccontextmanager
    async def tcp(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that ends with a FIN or, as often, with a reset."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_CHUNK)
        try:
            yield reader, writer
        finally:
            if self.chance.random() < 0.5:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def websocket(self, behind: bytes = b"") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection past the handshake, of a new user and from a new address."""
        async with self.tcp() as (reader, writer):
            writer.write(self.request("/ws") + behind)
            await reader.readuntil(b"\r\n\r\n")
            yield reader, writer

    def request(self, path: str, **headers: str) -> bytes:
        user, address = self.name(), f"10.{self.number()}.{self.number()}.{self.number()}"
        return upgrade_request(path, X_Real_IP=address, Authorization=f"Bearer {mint(SECRET, user, 600)}", **headers)

    def name(self) -> str:
        return f"{self.chance.getrandbits(64):x}"

    def number(self) -> int:
        return self.chance.randrange(256)

    def bytes(self, most: int) -> bytes:
        return self.chance.randbytes(self.chance.randrange(most))


async def drained(reader: asyncio.StreamReader) -> None:
    """Read to the end, with a short timeout."""
    async with asyncio.timeout(3):
        while await reader.read(_CHUNK):
            pass


def command(kind: str, **fields: Any) -> bytes:
    return text(json.dumps({"type": kind, **fields}))


# Handshakes.


async def slow_handshake(target: Target) -> None:
    async with target.tcp() as (reader, writer):
        end = asyncio.ensure_future(drained(reader))
        for byte in target.request("/ws"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
            if end.done():
                break
        await end


async def silent_connections(target: Target) -> None:
    async with contextlib.AsyncExitStack() as held:
        readers = [(await held.enter_async_context(target.tcp()))[0] for _ in range(50)]
        if target.chance.random() < 0.5:
            await asyncio.gather(*map(drained, readers))


async def header_bombs(target: Target) -> None:
    bombs = [
        b"GET /" + b"x" * 100_000,
        b"GET /ws HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /ws HTTP/1.1\r\nX: " + b"y" * 1_000_000,
        b"GET /ws HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"y" * 8000) for n in range(130)),
        b"\r\n" * 10_000,
        target.bytes(10_000),
        target.request("/ws", Cookie="a=b; " * 1500, Sec_WebSocket_Extensions="permessage-deflate, " * 300),
        target.request("/events?" + "room=a&" * 1000),
        b"POST /ws HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000),
    ]
    async with target.tcp() as (reader, writer):
        writer.write(target.chance.choice(bombs))
        await drained(reader)


async def forged_tokens(target: Target) -> None:
    claims: dict[str, Any] = {"sub": "a", "exp": 2e9}
    forged = [
        jwt.encode(claims, "x" * 32, "HS256"),
        jwt.encode(claims, None, "none"),
        "ey" + "W1tb" * 1500 + ".e30.e30",
        *(
            jwt.encode(claims | odd, SECRET, "HS256")
            for odd in (
                {"exp": 1},
                {"exp": 1e308},
                {"exp": "soon"},
                {"sub": "a\0b"},
                {"sub": ["a"]},
                {"sub": "a" * 4000},
                {"join": [["*"] * 50]},
                {"join": ["*" * 100] * 50},
                {"publish": {"*": 1}},
                {"nbf": 2e9},
            )
        ),
    ]
    for token in forged:
        async with target.tcp() as (reader, writer):
            writer.write(upgrade_request(Authorization=f"Bearer {token}") + client_frame(Opcode.CLOSE, b""))
            await drained(reader)


async def early_frames(target: Target) -> None:
    """Frames before the answer, also after a handshake that is refused."""
    flood = text("x" * 60_000) * 20
    async with target.tcp() as (reader, writer):
        writer.write((target.request("/ws") if target.chance.random() < 0.5 else upgrade_request()) + flood)
        await drained(reader)


async def hang_up_before_the_answer(target: Target) -> None:
    for _ in range(20):
        async with target.tcp() as (_reader, writer):
            writer.write(target.request("/ws"))
            await asyncio.sleep(target.chance.random() / 100)


async def event_streams(target: Target) -> None:
    async with target.tcp() as (reader, writer):
        writer.write(
            target.request(
                f"/events?room={target.name()}&members", Last_Event_ID=target.chance.choice(["", "1-1", "x"])
            )
        )
        if target.chance.random() < 0.5:
            writer.write(target.bytes(50_000))
        await reader.read(_CHUNK)
        await asyncio.sleep(target.chance.random())


# Frames.


async def random_frames(target: Target) -> None:
    async with target.websocket() as (reader, writer):
        for _ in range(target.chance.randrange(1, 30)):
            head = bytes(
                [target.chance.choice([0x01, 0x80, 0x81, 0x81, 0x88, 0x89, 0x8A, target.number()]), target.number()]
            )
            writer.write(head + target.bytes(300))
        await drained(reader)


async def oversized(target: Target) -> None:
    heads = [b"\x81\xff" + struct.pack("!Q", size) for size in (65537, 2**31, 2**63 - 1, 2**63, 2**64 - 1)]
    async with target.websocket() as (reader, writer):
        writer.write(target.chance.choice([*heads, text("x" * 65537)]) + bytes(50_000))
        await drained(reader)


async def endless_message(target: Target) -> None:
    """Fragments without an end: empty ones for ever, or until they are too many bytes."""
    async with target.websocket() as (_reader, writer):
        writer.write(text("x", fin=False))
        part = b"x" * target.chance.choice([0, 1, 1000])
        for _ in range(100):
            fragment = client_frame(Opcode.CONT, part, fin=False)
            writer.write(fragment * 20 + client_frame(Opcode.PING, b""))
            await writer.drain()


async def flood_of_pings(target: Target) -> None:
    async with target.websocket() as (reader, writer):
        writer.write(client_frame(Opcode.PING, b"x" * target.chance.choice([0, 125])) * 5000)
        if target.chance.random() < 0.5:
            await drained(reader)
        await asyncio.sleep(1)


async def bad_closes(target: Target) -> None:
    code = struct.pack("!H", target.chance.choice([0, 999, 1000, 1004, 1005, 1006, 1015, 2999, 4000, 65535]))
    async with target.websocket() as (reader, writer):
        writer.write(b"\x88" + bytes([0x80 | (2 + 20)]) + bytes(4) + code + target.chance.randbytes(20))
        writer.write(command("join", room="r") + target.bytes(1000))
        if target.chance.random() < 0.5:
            await asyncio.sleep(target.chance.random() * 3)  # and stay
        else:
            await drained(reader)


async def half_open(target: Target) -> None:
    """A client that vanished: it answers no ping, and reads nothing."""
    async with target.websocket() as (_reader, writer):
        writer.write(command("join", room="busy"))
        await asyncio.sleep(_DEADLINE_S)


async def half_closed(target: Target) -> None:
    async with target.websocket() as (reader, writer):
        for n in range(50):
            writer.write(command("publish", room="busy", id=str(n), data=n))
        writer.write_eof()
        await drained(reader)


# Commands.


async def garbage(target: Target) -> None:
    known = '{"type":"publish","room":"r","data":{"a":[1,2,"x"]},"id":"1"}'
    async with target.websocket() as (reader, writer):
        for _ in range(30):
            characters = list(known)
            for _mutation in range(target.chance.randrange(1, 6)):
                characters[target.chance.randrange(len(characters))] = target.chance.choice(
                    '{}[]",:\\\0\x01019eE-+ué\U0010ffff'
                )
            writer.write(text("".join(characters)))
        writer.write(text(target.bytes(100)))  # mostly no UTF-8, and then the end
        await drained(reader)


async def nested_and_huge(target: Target) -> None:
    data = target.chance.choice(
        [
            "[" * 30_000 + "]" * 30_000,
            '{"a":' * 9000 + "1" + "}" * 9000,
            "1" * 60_000,
            "1e999999999",
            "-0.0e-999",
            "[" * 65_000,
        ]
    )
    async with target.websocket() as (reader, writer):
        writer.write(text(f'{{"type":"publish","room":"busy","id":"1","data":{data}}}'))
        writer.write(text(f'{{"type":"ping","t":{data}}}') + text(data))
        writer.write(client_frame(Opcode.CLOSE, b""))
        await drained(reader)


async def nasty_publishes(target: Target) -> None:
    nasty: list[Any] = [
        "\ud800",
        "\0" * 1000,
        {"\0": "\0"},
        {"k" * 64_000: 1},
        "\u2028\ufeff",
        ["\\u0000"],
        "x" * 64_000,
    ]
    async with target.websocket() as (reader, writer):
        writer.write(command("join", room="busy"))
        for data in nasty:
            for id in ("1", "\0", "\U0010ffff" * 128, target.name()):
                writer.write(
                    command("publish", room=target.chance.choice(["busy", "\U0010ffff" * 128]), id=id, data=data)
                )
        writer.write(client_frame(Opcode.CLOSE, b""))
        await drained(reader)


async def many_rooms(target: Target) -> None:
    async with target.websocket() as (reader, writer):
        for _ in range(150):
            room = target.name()
            writer.write(command("join", room=room, members=True) + command("publish", room=room, id="1", data=1))
        if target.chance.random() < 0.5:
            writer.write(client_frame(Opcode.CLOSE, b""))
            await drained(reader)
        await asyncio.sleep(target.chance.random())


async def storm(target: Target) -> None:
    """Random frames in any order, with reading paused for a while or permanently."""
    rooms = [target.name(), "busy", "storm"]
    async with target.websocket() as (reader, writer):
        for n in range(target.chance.randrange(300)):
            room = target.chance.choice(rooms)
            since = {"epoch": target.chance.choice(["0", "999999999999999"]), "seq": target.chance.randrange(2**53)}
            writer.write(
                target.chance.choice(
                    [
                        command("join", room=room, members=True),
                        command("join", room=room, since=since),
                        command("leave", room=room),
                        command("publish", room=room, id=str(n // 2), data=n),
                        command("presence", room=room, after=target.name(), limit=100),
                        command("history", room=room, before=since, limit=100),
                        command("auth", token="x" * 8000),
                    ]
                )
            )
        if target.chance.random() < 0.5:
            writer.write(client_frame(Opcode.CLOSE, b""))
            await drained(reader)


async def slow_reader(target: Target) -> None:
    async with target.websocket() as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.write(command("join", room="busy") + command("history", room="busy", limit=100) * 20)
        for _ in range(40):
            await asyncio.sleep(0.1)
            await reader.read(target.chance.choice([1, 100, 4000]))


async def fill_the_slow_room(target: Target) -> None:
    """Fills the room of the slow clients."""
    async with target.websocket() as (reader, writer):
        for n in range(60):
            writer.write(command("publish", room="busy", id=str(n), data="x" * 4000))
        writer.write(client_frame(Opcode.CLOSE, b""))
        await drained(reader)


ATTACKS: list[Callable[[Target], Coroutine[Any, Any, None]]] = [
    slow_handshake,
    silent_connections,
    header_bombs,
    forged_tokens,
    early_frames,
    hang_up_before_the_answer,
    event_streams,
    random_frames,
    oversized,
    endless_message,
    flood_of_pings,
    bad_closes,
    half_open,
    half_closed,
    garbage,
    nested_and_huge,
    nasty_publishes,
    many_rooms,
    storm,
    slow_reader,
    fill_the_slow_room,
]


async def attack(target: Target) -> str:
    """Run a random attack; returns its name."""
    chosen = target.chance.choice(ATTACKS)
    # The worker cuts off such a client.
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(_DEADLINE_S):
            await chosen(target)
    return chosen.__name__
