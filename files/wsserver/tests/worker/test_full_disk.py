# SPDX-License-Identifier: MIT
"""A real Redis whose disk is full. With `everysec` it refuses writes; with `always` it ends at each
write, and systemd, here the test, starts the next one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.redis_server import RedisServer
from support.wait import until
from support.worker import Client, Worker


@contextmanager
def started(fsync: str) -> Iterator[RedisServer]:
    redis = RedisServer(fsync)
    redis.start()
    try:
        yield redis
    finally:
        redis.remove()


@asynccontextmanager
async def supervised(redis: RedisServer) -> AsyncIterator[None]:
    over = False

    async def start_again() -> None:
        while not over:
            if redis.ended:
                await asyncio.to_thread(redis.start)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(start_again())
    yield
    over = True
    await task


async def publish_until(client: Client, wanted: str, room: str = "r") -> dict[str, Any]:
    """Publish until an answer has this type or code. A repeat of a message follows only its answer."""
    number = 0
    async with asyncio.timeout(50):
        while True:
            number += 1
            await client.publish("x" * 2000, f"{wanted} {number}", room)
            while (event := await client.next())["type"] not in ("ack", "error"):
                pass
            if wanted in (event["type"], event.get("code")):
                return event
            assert event["type"] == "ack" or event["code"] in ("unavailable", "outcome_unknown", "broker_full"), event
            await asyncio.sleep(0.05)


async def join_refused(client: Client) -> str:
    """Join new rooms until the answer is `broker_full`: a Redis that just started has room for one."""
    async with asyncio.timeout(30):
        for number in itertools.count():
            await client.send(type="join", room=f"new-{number}")
            while (event := await client.next())["type"] not in ("joined", "error"):
                pass
            if event.get("code") == "broker_full":
                return str(event["message"])
            await asyncio.sleep(0.05)
    raise AssertionError


async def ask(socket: Path) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(b'{"cmd":"status"}\n')
    answer: dict[str, Any] = json.loads(await reader.readline())["result"]
    writer.close()
    return answer


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_clients_and_the_operator_hear_that_the_disk_is_full(fsync: str, run_directory: Path) -> None:
    with started(fsync) as redis:
        socket = run_directory / "control.sock"
        worker = Worker(redis.url, WS_CONTROL_SOCKET=str(socket))
        try:
            await worker.ready()
            client = await worker.client("alice")
            await publish_until(client, "ack")
            async with supervised(redis):
                redis.fill_disk()
                error = await publish_until(client, "broker_full")
                assert error["message"] == "the broker cannot write to its disk; nothing was published"
                assert await join_refused(client) == "the broker cannot write to its disk"
                await until(lambda: worker.log("broker_disk_full"))
                assert (await worker.metrics())["ws_broker_disk_full"] == 1
                assert (await worker.http("/readyz"))[1].endswith("the broker cannot write to its disk\n")
                assert (await ask(socket))["broker"]["disk_full"] is True
                if fsync == "everysec":  # reading goes on, past the next ping of Redis
                    await asyncio.sleep(3)
                    await client.join("r")
                    assert not worker.log("broker_unavailable")
                assert len(worker.log("broker_disk_full")) == 1
                redis.free_disk()
                await publish_until(client, "ack")
                await until(lambda: worker.log("broker_disk_has_room"))
                await worker.ready()
                await client.join("new")
                assert (await worker.metrics())["ws_broker_disk_full"] == 0
        finally:
            worker.remove()
