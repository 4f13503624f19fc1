# SPDX-License-Identifier: MIT
"""A worker under hostile load: well-behaved clients notice nothing, and no resource leaks.

Twenty seconds by default; `HOSTILE_S=600` is the long trial, and `HOSTILE_SEED` repeats one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.wait import until
from support.worker import SECRET, Worker, environment

from wsserver.auth import mint

_SECONDS = float(os.environ.get("HOSTILE_S", "20"))
_SEED = os.environ.get("HOSTILE_SEED") or str(time.time_ns())
_ROUND_S = min(30.0, _SECONDS / 4)
# Memory and descriptors are counted from here on, when caches are full and pools are open.
_WARM_UP = 1 / 3
_GROWTH_KIB = 16 * 1024
_GROWTH_FILES = 16  # the pools of connections to Redis
_LATENCY_S = 20.0
_LISTEN = "0A"  # in /proc/net/tcp


class Witness:
    """A well-behaved client: it gets its own messages once, in order, and within a bound."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.going_on = True
        self.heard = 0
        self.slowest_s = 0.0

    async def run(self) -> None:
        token = mint(SECRET, "witness", int(_SECONDS) + 3600)
        client = await self._worker.client("witness", additional_headers={"Authorization": f"Bearer {token}"})
        await client.join("witness")
        async with asyncio.timeout(None) as patience:
            while self.going_on:
                n = self.heard
                said = time.monotonic()
                patience.reschedule(asyncio.get_running_loop().time() + _LATENCY_S)
                await client.publish(n, f"{n}", room="witness")
                assert await client.messages(1) == [n]
                self.heard += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - said)
                await asyncio.sleep(0.05)


def rss_kib(worker: Worker) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def descriptors(worker: Worker) -> int:
    return len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))


def connections(worker: Worker) -> int:
    """The number of the worker's client sockets, in any state."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{worker.port:04X}") and row[3] != _LISTEN and row[9] != "0" for row in rows)


async def attacked(worker: Worker, seed: str, seconds: float) -> Counter[str]:
    variables = environment()
    variables["PYTHONPATH"] += f":{Path(__file__).parents[1]}"
    command = [sys.executable, "-m", "hostile", str(worker.port), seed, str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, env=variables, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    return Counter(json.loads(output))


@pytest.mark.timeout(2 * _SECONDS + 120)
async def test_hostile_load_does_no_harm(start_cold: Callable[..., Worker]) -> None:
    print(f"\nHOSTILE_SEED={_SEED}")
    worker = start_cold(
        WS_LOG_LEVEL="warning",
        WS_HANDSHAKE_S="2",
        WS_HEARTBEAT_S="3",
        WS_SLOW_CLIENT_S="3",
        WS_SEND_BUFFER_BYTES="65536",
        WS_ROOM_LOG_LENGTH="100",
    )
    await worker.ready()
    witness = Witness(worker)
    chat = asyncio.create_task(witness.run())
    ran: Counter[str] = Counter()
    memory: list[int] = []
    open_files: list[int] = []
    begin = time.monotonic()
    for turn in range(sys.maxsize):
        # A round ends when its last attack does, which on a slow machine takes as long as the
        # round.
        if time.monotonic() - begin >= _SECONDS and len(memory) > 1:
            break
        ran += await attacked(worker, f"{_SEED} {turn}", _ROUND_S)
        assert worker.process.poll() is None, worker.output()
        assert not chat.done(), await chat
        assert not worker.output(), worker.output()
        await until(lambda: connections(worker) <= 1)  # only the witness: the worker noticed the clients that are gone
        passed_s = time.monotonic() - begin
        print(
            f"{passed_s:4.0f} s: {ran.total()} attacks; RSS {rss_kib(worker)} KiB; {descriptors(worker)} descriptors;"
            f" the witness heard {witness.heard} messages, the slowest after {witness.slowest_s:.2f} s",
            flush=True,
        )
        if passed_s > _SECONDS * _WARM_UP:
            memory.append(rss_kib(worker))
            open_files.append(descriptors(worker))
    witness.going_on = False
    await chat
    print(dict(ran))
    assert witness.heard > 0
    assert (await worker.metrics())["ws_active_connections"] <= 1
    assert memory[-1] - memory[0] <= _GROWTH_KIB, memory
    assert open_files[-1] - open_files[0] <= _GROWTH_FILES, open_files
