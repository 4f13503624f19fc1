# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""How long to wait, and how often to look meanwhile."""

from __future__ import annotations

import time
from typing import Protocol

_FIRST_S = 0.1
_LONGEST_S = 1.0
_GROWTH = 1.5


class Clock(Protocol):
    """What a wait needs of the module `time`."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> object: ...


class Wait:
    """A deadline that no change of the host's clock moves, and sleeps that grow from a tenth of a second to a second.

    `began`: of a wait that another process of this host goes on with; Linux counts since the boot, for all of them.
    """

    def __init__(self, timeout_s: float, clock: Clock = time, began: float | None = None) -> None:
        self._clock = clock
        self.began = clock.monotonic() if began is None else began
        self._timeout_s = timeout_s
        self._sleep_s = _FIRST_S

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock.monotonic() - self.began

    @property
    def left(self) -> float:
        """Less than a millisecond is nothing."""
        return max(round(self._timeout_s - self.seconds, 3), 0.0)

    @property
    def over(self) -> bool:
        return self.left == 0.0

    def pause(self) -> None:
        """Sleep, a little longer each time, but not past the deadline."""
        self._clock.sleep(min(self._sleep_s, self.left))
        self._sleep_s = min(self._sleep_s * _GROWTH, _LONGEST_S)
