# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition` holds; the bound is generous, for slow machines."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - processes and sockets raise no asyncio.Event
            await asyncio.sleep(0.02)
