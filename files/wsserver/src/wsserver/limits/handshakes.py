# SPDX-License-Identifier: MIT
"""So many handshakes in one turn of the event loop, and the rest in the next.

When a worker is lost its clients come to the others all at once; those who are there already, and the timers that
tell a dead Redis from a live one, must not wait until the last of them is in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_PER_TURN = 20


class Turnstile:
    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, admit: Callable[[], None]) -> None:
        """Call `admit` when its turn comes, in the order of arrival."""
        self._waiting.append(admit)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        for _admitted in range(min(_PER_TURN, len(self._waiting))):
            loop.call_soon(self._waiting.popleft())  # each for itself: one that fails concerns no other
        if self._waiting:
            loop.call_soon(self._turn)
