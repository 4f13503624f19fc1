# SPDX-License-Identifier: MIT
"""One user does all that an ordinary token allows, as hard as the limits let them. The others chat
on.

Each attack lasts a second; `TENANT_S=60` is the long trial.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import pytest
from support.redis_server import RedisServer
from support.worker import SECRET, Client, Worker

from hostile import tenant
from hostile.chat import Chat, attacked

_SECONDS = float(os.environ.get("TENANT_S", "1"))
_REDIS_BYTES = 64 * 2**20
# What a worker may grow by, and what Redis may use: the logs of the attack stay.
_GROWTH_BYTES = 64 * 2**20
_REDIS_SHARE = 0.9


class DefaultWorker(Worker):
    """A worker with the limits that the service has by default."""

    _limits: ClassVar[dict[str, str]] = {}


def resident(worker: Worker) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.timeout(20 * _SECONDS + 240)
async def test_one_user_cannot_hurt_the_others(redis: RedisServer, dsn: str) -> None:
    redis.client().config_set("maxmemory", _REDIS_BYTES)
    workers = [DefaultWorker(redis.url, WS_POSTGRES_DSN=dsn, WS_LOG_LEVEL="warning") for _ in range(2)]

    async def connect(n: int) -> Client:
        return await workers[n % len(workers)].client(f"user{n}")

    try:
        for worker in workers:
            await worker.ready()
        chat = Chat(connect)
        await chat.start(max(_SECONDS, 3))
        target = tenant.Target([f"ws://127.0.0.1:{worker.port}/ws" for worker in workers], SECRET)
        memory = [resident(worker) for worker in workers]
        for name in tenant.NAMES:
            answers = await attacked(name, _SECONDS, target)
            p99 = chat.judge()
            grown = max(resident(worker) - before for worker, before in zip(workers, memory, strict=True))
            used = redis.client().info("memory")["used_memory"] / _REDIS_BYTES
            print(f"{name:23} {p99}, workers +{grown / 2**20:.1f} MiB, Redis {used:.0%} full, {answers}", flush=True)
            assert grown < _GROWTH_BYTES, name
            assert used < _REDIS_SHARE, name
            assert all(worker.process.poll() is None for worker in workers), name
        await chat.stop()
    finally:
        for worker in workers:
            print(worker.output()[-2000:])
            worker.remove()
