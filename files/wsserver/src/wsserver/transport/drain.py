# SPDX-License-Identifier: MIT
"""Sending clients elsewhere: a hint to reconnect, spread over a window, then a close with 1001."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Literal

from websockets.frames import CloseCode

from wsserver.protocol.messages import Reconnect
from wsserver.telemetry.logs import log
from wsserver.transport.connection import Connection
from wsserver.transport.registry import ConnectionRegistry

_STEP_S = 0.05
# Few clients need no pacing: this many per second are no load for an edge or for the other workers.
_UNPACED_PER_S = 500
_AFTER_MS_MAX = 500
_GRACE_S = 1.5
_CLOSE_WAIT_S = 3.0
_WHY = "the server is going away"


async def drain(connections: ConnectionRegistry, window_s: float) -> None:
    """Hint all clients within `window_s`, close whoever stayed a grace later, and wait until they are gone."""
    clients = connections.open_connections
    random.shuffle(clients)  # else those who came together, often from one place, would go together
    batch_size = int(max(len(clients) / max(window_s, _STEP_S), _UNPACED_PER_S) * _STEP_S) + 1
    async with asyncio.TaskGroup() as closing:
        for start in range(0, len(clients), batch_size):
            batch = clients[start : start + batch_size]
            for client in batch:
                if client.session is not None:
                    client.session.send(Reconnect(random.randint(0, _AFTER_MS_MAX), _WHY))
            closing.create_task(_close(batch))
            await asyncio.sleep(_STEP_S)
    for _wait in range(int(_CLOSE_WAIT_S / _STEP_S)):
        if connections.idle:
            break
        await asyncio.sleep(_STEP_S)


async def _close(batch: list[Connection]) -> None:
    await asyncio.sleep(_GRACE_S)
    for client in batch:
        client.close(CloseCode.GOING_AWAY, _WHY)


class NotYours(Exception):
    """The drain is not for the one to undo who would; the text says whose it is."""


class Drainage:
    """`send_away(window_s)` empties the worker; None stands for the window in its settings.

    A worker stays empty until everyone who asked for it has changed their mind: an update that drains and undrains
    must not let clients in again while an operator is at work.
    """

    def __init__(self, send_away: Callable[[float | None], Awaitable[None]]) -> None:
        self._send_away = send_away
        self._by: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def by(self) -> list[str]:
        """In the order in which they asked."""
        return list(self._by)

    @property
    def state(self) -> Literal["draining", "drained"] | None:
        """None while clients are welcome."""
        if self._task is None:
            return None
        return "drained" if self._task.done() else "draining"

    def drain(self, by: str, window_s: float | None = None) -> asyncio.Task[None]:
        """Join the drain that is under way or done, else begin one; the task ends when it is done."""
        if by not in self._by:
            log.info("drain", by=by, joined=self.by)
        self._by[by] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(window_s))
        return self._task

    async def stop(self) -> None:
        """Drain for good: the process ends after it."""
        self._stopping = True
        await self.drain("stop")

    async def _run(self, window_s: float | None) -> None:
        try:
            await self._send_away(window_s)
        except Exception:
            # A fault of this program; whoever waits for the drain sees who is left.
            log.exception("drain_failed")

    def undrain(self, by: str, force: bool = False) -> None:
        """`force`: also in the name of all others. Raises NotYours."""
        if self._stopping:
            raise NotYours("the worker is stopping")
        if self._by and by not in self._by and not force:
            raise NotYours(f"drained by {', '.join(self._by)}: undrain in that name, or by force")
        if force:
            self._by.clear()
        self._by.pop(by, None)
        log.info("undrain", by=by, force=force, still=self.by)
        if not self._by and self._task is not None:
            self._task.cancel()
            self._task = None
