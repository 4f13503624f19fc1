# SPDX-License-Identifier: MIT
"""A worker that stood still for longer than the broker recognises repeats."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator

import pytest
from support.ports import free_port
from support.redis_server import RedisServer
from support.short_window import WINDOW_S
from support.wait import until
from support.worker import Worker
from websockets.exceptions import ConnectionClosed

KEY = "k" * 32


class ShortWindow(Worker):
    _command = ("support.short_window", "serve")

    def __init__(self, redis_url: str) -> None:
        self.api_port = free_port()
        super().__init__(redis_url, WS_API_PORT=str(self.api_port), WS_API_KEY=KEY)


@pytest.fixture
def workers(redis: RedisServer) -> Iterator[list[ShortWindow]]:
    workers = [ShortWindow(redis.url) for _ in range(2)]
    yield workers
    for worker in workers:
        worker.remove()


async def post(worker: ShortWindow, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Publish over the server API, without waiting for the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.api_port)
    body = json.dumps({"room": "r", "data": id, "from": "backend"})
    head = f"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nIdempotency-Key: {id}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return reader, writer


async def answer(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> str:
    reader, writer = connection
    line = (await asyncio.wait_for(reader.readline(), 20)).decode()
    writer.close()
    return line


async def test_what_clients_repeated_elsewhere_meanwhile_is_not_published(workers: list[ShortWindow]) -> None:
    frozen, other = [await worker.ready() for worker in workers]
    watcher = await other.client("watcher")
    await watcher.join()
    stuck = await frozen.client("alice")
    frozen.signal(signal.SIGSTOP)
    await stuck.publish("from alice", "1")
    waiting = await post(frozen, "from the backend")
    # The repeats, through the other worker.
    alice = await other.client("alice")
    await alice.publish("from alice", "1")
    await alice.acks(1)
    assert "200" in await answer(await post(other, "from the backend"))
    await asyncio.sleep(WINDOW_S + 1.5)
    frozen.signal(signal.SIGCONT)
    await until(lambda: frozen.log("stood_still"))
    assert "503" in await answer(waiting)
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(stuck.connection.recv(), 20)
    await alice.publish("the next", "2")
    assert await watcher.messages(3) == ["from alice", "from the backend", "the next"]
    assert frozen.log("stood_still")[0]["dropped"] >= 1
    assert (await until_metrics(frozen))["ws_pauses_total"] == 1
    # The worker goes on.
    again = await (await frozen.ready()).client("alice")
    await again.publish("later", "3")
    await again.acks(1)
    assert await watcher.messages(1) == ["later"]


async def until_metrics(worker: Worker) -> dict[str, float]:
    """The metrics, once the worker accepts connections again."""
    await worker.ready()
    return await worker.metrics()
