# SPDX-License-Identifier: MIT
"""Who wants this worker empty, and the one drain that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from wsserver.telemetry.logs import log


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
