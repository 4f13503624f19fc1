# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Deadlines, and pauses between looks."""

from __future__ import annotations

import time
from typing import Protocol

_FIRST_S = 0.1
_LONGEST_S = 1.0
_GROWTH = 1.5


class Clock(Protocol):
    """The part of the module `time` that a wait uses."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> object: ...


class Wait:
    """A deadline on the monotonic clock, with pauses that grow from 0.1 s to 1 s.

    `began` continues a wait of another process of this host: Linux counts since boot for all of
    them.
    """

    def __init__(self, timeout_s: float, clock: Clock = time, began: float | None = None) -> None:
        self._clock = clock
        self.began = clock.monotonic() if began is None else began
        self._timeout_s = timeout_s
        self._sleep_s = _FIRST_S

    @property
    def seconds(self) -> float:
        """The seconds since the wait began."""
        return self._clock.monotonic() - self.began

    @property
    def left(self) -> float:
        """The seconds left. Less than a millisecond counts as 0."""
        return max(round(self._timeout_s - self.seconds, 3), 0.0)

    @property
    def over(self) -> bool:
        return self.left == 0.0

    def pause(self) -> None:
        """Sleep a little longer each time, but not past the deadline."""
        self._clock.sleep(min(self._sleep_s, self.left))
        self._sleep_s = min(self._sleep_s * _GROWTH, _LONGEST_S)
