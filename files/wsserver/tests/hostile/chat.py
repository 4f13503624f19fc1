# SPDX-License-Identifier: MIT
"""Users who chat while one user attacks, and what the attack costs them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from support.worker import Client, environment

from hostile.tenant import Target

USERS = 100
_ROOMS = 10
_PAUSE_S = 1.0
# The bound is five times the value without an attack, or what a busy machine does by itself.
_TIMES = 5
_LEAST_S = 2.0


class Chat:
    """Users who each publish about once a second, and receive all messages of their room.

    `connect`: a connected client for the n-th user.
    """

    def __init__(self, connect: Callable[[int], Awaitable[Client]]) -> None:
        self._connect = connect
        self._tasks: list[asyncio.Task[None]] = []
        self._going_on = True
        self._acks_s: list[float] = []
        self._quiet_s = 0.0

    async def start(self, quiet_s: float) -> None:
        """Connect all users, and measure them for `quiet_s` seconds without an attack."""
        for n in range(USERS):
            client = await self._connect(n)
            await client.join(f"chat-{n % _ROOMS}")
            self._tasks.append(asyncio.create_task(self._talk(client, n)))
        await asyncio.sleep(quiet_s)
        self._quiet_s = self._p99_s()

    async def _talk(self, client: Client, n: int) -> None:
        await asyncio.sleep(n / USERS * _PAUSE_S)
        turn = 0
        while self._going_on:
            turn += 1
            begin = time.monotonic()
            await client.publish(f"{n} {turn}", f"{turn}", room=f"chat-{n % _ROOMS}")
            while (event := await client.next())["type"] != "ack":
                assert event["type"] != "error", event
            self._acks_s.append(time.monotonic() - begin)
            await asyncio.sleep(_PAUSE_S)

    def judge(self) -> str:
        """Fail if the publishes since the last call were refused, or much slower than without an
        attack. Otherwise, describe them.
        """
        p99_s = self._p99_s()
        said = f"p99 {1000 * p99_s:7.1f} ms (quiet {1000 * self._quiet_s:.1f})"
        assert p99_s < max(_TIMES * self._quiet_s, _LEAST_S), said
        return said

    def _p99_s(self) -> float:
        assert not any(task.done() for task in self._tasks), [task for task in self._tasks if task.done()]
        measured, self._acks_s = sorted(self._acks_s), []
        assert measured, "no publish was acknowledged"
        return measured[int(len(measured) * 0.99)]

    async def stop(self) -> None:
        # Not by cancellation, which asyncio.wait_for of Python 3.11 may swallow.
        self._going_on = False
        await asyncio.gather(*self._tasks)


async def attacked(name: str, seconds: float, target: Target) -> str:
    """Run one attack in a process of its own, and return how many of each answer it got."""
    variables = environment()
    variables["PYTHONPATH"] += f":{Path(__file__).parents[1]}"
    # The attacker's own work must not take the cores of the service.
    command = ["nice", "-n", "19", sys.executable, "-m", "hostile.tenant", name, str(seconds)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=variables, stdin=pipe, stdout=pipe)
    try:
        output, _ = await process.communicate(json.dumps(target._asdict()).encode())
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    return str(json.loads(output))
