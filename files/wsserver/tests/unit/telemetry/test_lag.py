# SPDX-License-Identifier: MIT
"""The measurement of the event loop's lag."""

from __future__ import annotations

import asyncio
import time

from wsserver.telemetry import lag, snapshot


async def test_each_tick_within_a_stall_counts() -> None:
    before = snapshot.read().event_loop_lag
    measuring = asyncio.create_task(lag.measure())
    await asyncio.sleep(0)
    time.sleep(0.52)  # noqa: ASYNC251 - this is the stall
    while (after := snapshot.read().event_loop_lag).counts[-1] == before.counts[-1]:  # noqa: ASYNC110 - no event tells of a metric
        await asyncio.sleep(0)
    measuring.cancel()
    over = {
        bound: (after.counts[-1] - before.counts[-1]) - (late - early)
        for bound, early, late in zip(after.bounds, before.counts, after.counts, strict=False)
    }
    # Ten ticks of 50 ms were due: one of them 470 ms late, the last one 20 ms.
    assert after.counts[-1] - before.counts[-1] >= 10
    assert over[0.25] >= 4
    assert over[0.1] >= 7
