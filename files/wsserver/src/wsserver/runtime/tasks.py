# SPDX-License-Identifier: MIT
"""Tasks that run in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def lasting(work: Coroutine[Any, Any, None], over: asyncio.Event) -> None:
    """Run background work that is cancelled only after `over` is set.

    A TaskGroup takes a cancelled task for a finished one, and the process would go on without it. Raises
    RuntimeError for a cancellation that was not asked for.
    """
    try:
        await work
    except asyncio.CancelledError as exc:
        if over.is_set():
            raise
        raise RuntimeError(f"{work} was cancelled in a process that goes on") from exc


class Tasks(set[asyncio.Task[Any]]):
    """Those that are under way, which this keeps alive: the loop itself has only weak references."""

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self.add(task)
        task.add_done_callback(self.discard)
        return task
