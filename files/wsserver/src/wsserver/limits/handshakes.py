# SPDX-License-Identifier: MIT
"""Admits a bounded number of handshakes per turn of the event loop.

When a worker is lost, its clients reconnect to the others all at once. Connected clients, and the
timers that detect a dead Redis, must not wait until the last of those clients is in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_PER_TURN = 20


class HandshakeQueue:
    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, admit: Callable[[], None]) -> None:
        """Call `admit` in one of the next turns of the event loop, in the order of arrival."""
        self._waiting.append(admit)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        for _admitted in range(min(_PER_TURN, len(self._waiting))):
            loop.call_soon(self._waiting.popleft())  # separate calls: a failure affects no other handshake
        if self._waiting:
            loop.call_soon(self._turn)
