# SPDX-License-Identifier: MIT
"""Keeps collections of garbage short, however many connections there are.

A full collection visits every object that is not frozen: 0.5 s with 20,000 connections, while the
event loop stands still. So the survivors of each full collection are frozen. Connections, sessions
and rooms free themselves by their reference counts, which the collector does not need to check
again and again. A frozen object that becomes a part of a cycle is not freed: whatever ends must
break its cycles (see `connection_lost`).
"""

from __future__ import annotations

import asyncio
import gc

_INTERVAL_S = 1.0


def freeze_survivors() -> None:
    """Freeze the survivors of each full collection from now on, and of one now. Call once."""
    gc.callbacks.append(_freeze_after)
    gc.collect()


def _freeze_after(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


async def collect_young() -> None:
    """Collect the youngest generation once a second, until cancelled.

    The collector starts by the number of objects that there are more than before. Each frame from a
    client replaces a few objects: without this, the replaced objects of all connections would wait
    for one long collection.
    """
    while True:
        await asyncio.sleep(_INTERVAL_S)
        gc.collect(0)
