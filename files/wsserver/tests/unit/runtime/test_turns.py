# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
from functools import partial

from wsserver.runtime.turns import TurnQueue


async def test_all_enter_in_order_and_a_burst_takes_several_turns() -> None:
    queue, entered = TurnQueue(20), []
    for n in range(100):
        queue.enter(partial(entered.append, n))
    counts = []
    while len(entered) < 100:
        await asyncio.sleep(0)
        counts.append(len(entered))
    assert entered == list(range(100))
    assert [count for count in counts if count] == [20, 40, 60, 80, 100]
    queue.enter(partial(entered.append, 100))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert entered[-1] == 100


async def test_a_failing_call_affects_no_other() -> None:
    queue, entered, failures = TurnQueue(20), [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    queue.enter(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    for n in range(50):
        queue.enter(partial(entered.append, n))
    for _ in range(5):
        await asyncio.sleep(0)
    assert entered == list(range(50))
    assert len(failures) == 1
