# SPDX-License-Identifier: MIT
"""Clients that do not read what they request, or do not obey a close: what they cost a real worker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.wait import until
from support.wire import Received, text, upgrade_request
from support.worker import SECRET, Worker
from websockets.frames import Opcode

from wsserver.auth import mint

Start = Callable[..., Worker]
MIB = 2**20


class RawClient:
    """A client below the WebSocket library, which would obey a close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *commands: dict[str, Any]) -> None:
        self._writer.write(b"".join(text(json.dumps(command)) for command in commands))

    async def next(self) -> Received:
        first, length = await self._reader.readexactly(2)
        if length >= 126:
            length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8), "big")
        return Received(Opcode(first & 0x0F), await self._reader.readexactly(length))

    async def event(self, kind: str) -> Any:
        """The next event of this kind."""
        while True:
            received = await asyncio.wait_for(self.next(), 60)
            if received.opcode is Opcode.TEXT and received.event["type"] == kind:
                return received.event

    def end(self) -> None:
        self._writer.transport.abort()


async def raw_client(worker: Worker, user: str = "mallory", ttl_s: float = 600) -> RawClient:
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port, limit=65536)
    writer.write(upgrade_request(Authorization=f"Bearer {mint(SECRET, user, ttl_s)}"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    client = RawClient(reader, writer)
    await client.event("welcome")
    return client


def resident(worker: Worker) -> int:
    """The resident memory of a worker, in bytes."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def until_disconnect(worker: Worker, code: int) -> dict[str, Any]:
    def ended() -> list[dict[str, Any]]:
        return [line for line in worker.log("disconnect") if line["code"] == code]

    await until(ended)
    return ended()[0]


async def test_answers_that_a_client_does_not_read_take_little_memory(start: Start) -> None:
    worker = await start().ready()
    publisher = await worker.client()
    for n in range(12):
        await publisher.publish(f"{n} " + "x" * 60_000, str(n))
    await publisher.acks(12)
    clients = [await raw_client(worker) for _ in range(5)]
    before = resident(worker)
    history = {"type": "history", "room": "r"}
    for client in clients:
        client.send(*[history] * 1900)
    most = 0
    until = time.monotonic() + 5
    while time.monotonic() < until:
        most = max(most, resident(worker) - before)
        await asyncio.sleep(0.05)
    assert most < 16 * MIB
    for _ in range(20):  # what is read is answered
        await clients[0].event("history")
    await publisher.publish("the end", "end")
    await publisher.acks(1)
    for client in clients:
        client.end()


async def test_commands_wait_one_by_one_while_the_rate_is_exceeded(start: Start) -> None:
    worker = await start(WS_MESSAGES_PER_S="5").ready()
    client = await raw_client(worker)
    client.send(*({"type": "ping", "t": n} for n in range(100)))
    begin = time.monotonic()
    assert [(await client.event("pong"))["t"] for _ in range(20)] == list(range(20))
    assert time.monotonic() - begin > 1, "one read let all pings pass"
    client.end()


async def test_pages_count_like_bytes_of_the_client(start: Start) -> None:
    worker = await start(WS_BYTES_PER_S="100000").ready()
    publisher = await worker.client()
    for n in range(8):
        await publisher.publish("x" * 20_000, str(n))
        await publisher.acks(1)
    reader = await worker.client("bob")
    for _ in range(4):
        await reader.send(type="history", room="r")
    kinds: list[str] = []
    while kinds.count("history") < 4:
        kinds.append((await reader.next())["type"])
    assert kinds.count("error") >= 1
    assert (await worker.metrics())['ws_limited_total{limit="connection_bytes"}'] >= 1


async def test_a_client_that_ignores_its_close_is_not_heard_any_longer(start: Start) -> None:
    worker = await start(WS_HEARTBEAT_S="60").ready()
    listener = await worker.client("alice")
    await listener.join("r")
    client = await raw_client(worker, ttl_s=2)
    closed = None
    for n in range(1000):
        client.send({"type": "publish", "room": "r", "data": n, "id": str(n)})
        received = await asyncio.wait_for(client.next(), 60)
        if received.opcode is Opcode.CLOSE:
            closed = n
            break
        await asyncio.sleep(0.02)
    assert closed is not None, "the token has expired, and the connection goes on"
    for n in range(2000, 2100):
        client.send({"type": "publish", "room": "r", "data": n, "id": str(n)})
    alice = await worker.client("alice")
    await alice.publish("the end", "end")
    data: list[Any] = []
    while "the end" not in data:
        data += await listener.messages(1)
    assert max(n for n in data if n != "the end") <= closed
    client.end()


async def test_a_full_send_buffer_does_not_delay_the_expiry(start: Start) -> None:
    worker = await start(WS_HEARTBEAT_S="60", WS_SLOW_CLIENT_S="600").ready()
    client = await raw_client(worker, ttl_s=5)
    client.send({"type": "join", "room": "r"})
    await client.event("joined")
    publisher = await worker.client()
    for n in range(100):
        await publisher.publish("x" * 60_000, str(n))
        await publisher.acks(1)
    assert (await worker.metrics())["ws_message_drops_total"] > 0, "the send buffer is not full"
    ended = await until_disconnect(worker, 1008)
    assert ended["duration_s"] < 30
