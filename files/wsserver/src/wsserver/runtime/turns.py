# SPDX-License-Identifier: MIT
"""Bounds how many calls of one kind the event loop makes per turn.

When a worker is lost, its clients reconnect to the others all at once. Connected clients, and the
timers that detect a dead Redis, must not wait until the last of those clients is in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class TurnQueue:
    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, call: Callable[[], None]) -> None:
        """Make the call in one of the next turns of the event loop, in the order of arrival."""
        self._waiting.append(call)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        for _called in range(min(self._per_turn, len(self._waiting))):
            loop.call_soon(self._waiting.popleft())  # separate calls: a failure affects no other call
        if self._waiting:
            loop.call_soon(self._turn)
