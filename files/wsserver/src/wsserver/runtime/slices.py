# SPDX-License-Identifier: MIT
"""Bounds the time that one kind of work takes in one turn of the event loop.

In one turn, the event loop reads from all sockets that have data. What they ask for may take far
longer than another client should wait.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable


class Slices:
    """`slice_s`: the time in one turn. Work that has begun goes on to its end."""

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._ends_at = math.inf  # this turn's slice, once it has begun
        self._waiting: deque[Callable[[], None]] = deque()

    def left(self) -> bool:
        """Whether this turn has time for one more piece of work."""
        self._begin()
        return time.monotonic() < self._ends_at

    def wait(self, call: Callable[[], None]) -> None:
        """Make the call when there is time, in the order of arrival."""
        self._begin()
        self._waiting.append(call)

    def _begin(self) -> None:
        if self._ends_at == math.inf:
            self._ends_at = time.monotonic() + self._slice_s
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """A new turn begins, with the work that waits. A failure leaves the rest to the next one."""
        self._ends_at = math.inf
        while self._waiting and self.left():
            self._waiting.popleft()()
