# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio

import pytest

from wsserver.runtime.tasks import lasting


async def forever() -> None:
    await asyncio.sleep(3600)


async def cancelled() -> None:
    raise asyncio.CancelledError


async def test_a_cancellation_that_was_not_asked_for_is_an_error() -> None:
    """A TaskGroup would go on, as if the work were done."""
    with pytest.raises(RuntimeError, match=r"cancelled .* was cancelled in a process that goes on"):
        await lasting(cancelled(), asyncio.Event())


async def test_work_is_cancelled_once_it_is_over() -> None:
    over = asyncio.Event()
    task = asyncio.create_task(lasting(forever(), over))
    await asyncio.sleep(0)
    over.set()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_what_work_raises_comes_through() -> None:
    async def broken() -> None:
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        await lasting(broken(), asyncio.Event())
