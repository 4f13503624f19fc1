# SPDX-License-Identifier: MIT
"""Tasks that run in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def lasting(work: Coroutine[Any, Any, None], over: asyncio.Event) -> None:
    """Run background work that is cancelled only after `over` is set.

    To a TaskGroup, a cancelled task is a finished task, and the process would run on without it. So
    this raises RuntimeError for an unexpected cancellation.
    """
    try:
        await work
    except asyncio.CancelledError as exc:
        if over.is_set():
            raise
        raise RuntimeError(f"{work} was cancelled while the process runs") from exc


async def apart(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, which runs in a task of its own.

    A timeout of a client library may leave a cancellation behind, which ends the task in which it
    happened. Here that is not the caller's, and the caller gets a TimeoutError.
    """
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(heard)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    try:
        return task.result()
    except asyncio.CancelledError:
        raise TimeoutError("a timeout of a client library was left behind") from None
    finally:
        del task  # the traceback of its error refers to this frame: a cycle


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Let a future raise `error`, unless it is done."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # if the caller is gone, asyncio must not report the error


def heard(task: asyncio.Task[Any]) -> None:
    """A callback for a task whose callers may all be gone: asyncio must not report its error."""
    if not task.cancelled():
        task.exception()


class Tasks(set[asyncio.Task[Any]]):
    """Running tasks. Keeps them alive: the event loop itself has only weak references."""

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self.add(task)
        task.add_done_callback(self.discard)
        return task
