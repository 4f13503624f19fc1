# SPDX-License-Identifier: MIT
"""How late the event loop is."""

from __future__ import annotations

import asyncio

from wsserver.telemetry import metrics

_TICK_S = 0.05


async def measure() -> None:
    """Observe the lag of each tick, until cancelled. No stall longer than a tick stays unseen."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        due += _TICK_S
        await asyncio.sleep(due - loop.time())
        now = loop.time()
        # A long stall delays several ticks, and each of them counts.
        while due + _TICK_S <= now:
            metrics.EVENT_LOOP_LAG.observe(now - due)
            due += _TICK_S
        metrics.EVENT_LOOP_LAG.observe(max(0.0, now - due))
