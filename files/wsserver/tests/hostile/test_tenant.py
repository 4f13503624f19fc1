# SPDX-License-Identifier: MIT
"""One user does all that an ordinary token allows, as hard as the limits let them. The others chat
on.

Each attack lasts a second; `TENANT_S=60` is the long trial.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
from support.redis_server import RedisServer
from support.worker import Client, Worker, environment

from hostile import tenant

_SECONDS = float(os.environ.get("TENANT_S", "1"))
_USERS = 100
_ROOMS = 10
_PAUSE_S = 1.0
_REDIS_BYTES = 64 * 2**20
# What a worker may grow by, and what Redis may use: the logs of the attack stay.
_GROWTH_BYTES = 64 * 2**20
_REDIS_SHARE = 0.9
# The bound is five times the value without an attack, or what a busy machine does by itself.
_TIMES = 5
_LEAST_S = 2.0


class DefaultWorker(Worker):
    """A worker with the limits that the service has by default."""

    _limits: ClassVar[dict[str, str]] = {}


class Chat:
    """Users who each say something about once a second, and hear all of their room."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers
        self._tasks: list[asyncio.Task[None]] = []
        self._going_on = True
        self.acks_s: list[float] = []

    async def start(self) -> None:
        for n in range(_USERS):
            client = await self._workers[n % len(self._workers)].client(f"user{n}")
            await client.join(f"chat-{n % _ROOMS}")
            self._tasks.append(asyncio.create_task(self._talk(client, n)))

    async def _talk(self, client: Client, n: int) -> None:
        await asyncio.sleep(n / _USERS * _PAUSE_S)
        turn = 0
        while self._going_on:
            turn += 1
            begin = time.monotonic()
            await client.publish(f"{n} {turn}", f"{turn}", room=f"chat-{n % _ROOMS}")
            while (event := await client.next())["type"] != "ack":
                assert event["type"] != "error", event
            self.acks_s.append(time.monotonic() - begin)
            await asyncio.sleep(_PAUSE_S)

    def p99_s(self) -> float:
        """Of the publishes since the last call."""
        assert not any(task.done() for task in self._tasks), [task for task in self._tasks if task.done()]
        measured, self.acks_s = sorted(self.acks_s), []
        assert measured, "no publish was acknowledged"
        return measured[int(len(measured) * 0.99)]

    async def stop(self) -> None:
        # Not by cancellation, which asyncio.wait_for of Python 3.11 may swallow.
        self._going_on = False
        await asyncio.gather(*self._tasks)


def resident(worker: Worker) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def attacked(name: str, ports: list[int]) -> str:
    variables = environment()
    variables["PYTHONPATH"] += f":{Path(__file__).parents[1]}"
    command = [sys.executable, "-m", "hostile.tenant", name, str(_SECONDS), *map(str, ports)]
    process = await asyncio.create_subprocess_exec(*command, env=variables, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    return str(json.loads(output))


@pytest.mark.timeout(20 * _SECONDS + 240)
async def test_one_user_cannot_hurt_the_others(redis: RedisServer, dsn: str) -> None:
    redis.client().config_set("maxmemory", _REDIS_BYTES)
    workers = [DefaultWorker(redis.url, WS_POSTGRES_DSN=dsn, WS_LOG_LEVEL="warning") for _ in range(2)]
    try:
        for worker in workers:
            await worker.ready()
        chat = Chat(workers)
        await chat.start()
        ports = [worker.port for worker in workers]
        await asyncio.sleep(max(_SECONDS, 3))
        quiet_s = chat.p99_s()
        memory = [resident(worker) for worker in workers]
        for name in tenant.NAMES:
            answers = await attacked(name, ports)
            p99_s = chat.p99_s()
            grown = max(resident(worker) - before for worker, before in zip(workers, memory, strict=True))
            used = redis.client().info("memory")["used_memory"] / _REDIS_BYTES
            print(
                f"{name:23} p99 {1000 * p99_s:7.1f} ms (quiet {1000 * quiet_s:.1f}), workers +{grown / 2**20:.1f} MiB,"
                f" Redis {used:.0%} full, {answers}",
                flush=True,
            )
            assert p99_s < max(_TIMES * quiet_s, _LEAST_S), name
            assert grown < _GROWTH_BYTES, name
            assert used < _REDIS_SHARE, name
            assert all(worker.process.poll() is None for worker in workers), name
        await chat.stop()
    finally:
        for worker in workers:
            print(worker.output()[-2000:])
            worker.remove()
