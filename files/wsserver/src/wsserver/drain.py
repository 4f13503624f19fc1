# SPDX-License-Identifier: MIT
"""Sending clients elsewhere: a hint to reconnect, spread over a window, then a close with 1001."""

from __future__ import annotations

import asyncio
import random

from websockets.frames import CloseCode

from wsserver.endpoint import Endpoint
from wsserver.messages import Reconnect
from wsserver.sweep import Sweep

_STEP_S = 0.05
# Few clients need no pacing: this many per second are no load for an edge or for the other workers.
_UNPACED_PER_S = 500
_AFTER_MS_MAX = 500
_GRACE_S = 1.5
_CLOSE_WAIT_S = 3.0
_WHY = "the server is going away"


async def drain(connections: Sweep, window_s: float) -> None:
    """Hint all clients within `window_s`, close whoever stayed a grace later, and wait until they are gone."""
    clients = connections.open_connections
    random.shuffle(clients)  # else those who came together, often from one place, would go together
    batch_size = int(max(len(clients) / max(window_s, _STEP_S), _UNPACED_PER_S) * _STEP_S) + 1
    async with asyncio.TaskGroup() as closing:
        for start in range(0, len(clients), batch_size):
            batch = clients[start : start + batch_size]
            for client in batch:
                if client.session is not None:
                    client.session.send(Reconnect(random.randint(0, _AFTER_MS_MAX), _WHY))
            closing.create_task(_close(batch))
            await asyncio.sleep(_STEP_S)
    for _wait in range(int(_CLOSE_WAIT_S / _STEP_S)):
        if connections.idle:
            break
        await asyncio.sleep(_STEP_S)


async def _close(batch: list[Endpoint]) -> None:
    await asyncio.sleep(_GRACE_S)
    for client in batch:
        client.close(CloseCode.GOING_AWAY, _WHY)
