# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio

import pytest

from wsserver.runtime.tasks import apart, lasting


async def forever() -> None:
    await asyncio.sleep(3600)


async def cancelled() -> None:
    raise asyncio.CancelledError


async def test_an_unexpected_cancellation_is_an_error() -> None:
    """A TaskGroup would treat the work as done."""
    with pytest.raises(RuntimeError, match=r"cancelled .* was cancelled while the process runs"):
        await lasting(cancelled(), asyncio.Event())


async def test_work_is_cancelled_once_it_is_over() -> None:
    over = asyncio.Event()
    task = asyncio.create_task(lasting(forever(), over))
    await asyncio.sleep(0)
    over.set()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_exceptions_of_the_work_are_raised() -> None:
    async def broken() -> None:
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        await lasting(broken(), asyncio.Event())


async def test_a_cancellation_left_behind_ends_only_the_work() -> None:
    with pytest.raises(TimeoutError, match="left behind"):
        await apart(cancelled())
    assert await apart(asyncio.sleep(0, "a result")) == "a result"


async def test_work_apart_ends_with_its_caller() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            ended.set()

    task = asyncio.create_task(apart(work()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert ended.is_set()
