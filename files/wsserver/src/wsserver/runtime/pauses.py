# SPDX-License-Identifier: MIT
"""Notices that the process stood still: it was stopped, or its machine was suspended.

A client that got no answer meanwhile has repeated its publishes through another worker. The broker
recognises a repeat for some minutes only, so what waited for longer must not be published.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Far below the time for which the broker recognises repeats.
LONGEST_S = 60.0
# After a pause, what arrived during it is in the sockets, and connections wait to be accepted.
_RECOVERY_S = 2.0


def _now() -> float:
    """Unlike the monotonic clock, this one counts the time for which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Pauses:
    """Call `check` once a second, and before input is acted on."""

    def __init__(self) -> None:
        self._longest_s = LONGEST_S
        self._seen_at = _now()
        self._recovered_at = 0.0
        self._acts: list[Callable[[float], None]] = []

    def then(self, act: Callable[[float], None]) -> None:
        """After a pause, call `act` with its seconds, before any `check` returns."""
        self._acts.append(act)

    def check(self) -> bool:
        """Whether input that arrives now may be old, because a pause has just ended."""
        now = _now()
        seen_at, self._seen_at = self._seen_at, now
        if now - seen_at > self._longest_s:
            self._recovered_at = math.inf
            try:
                for act in self._acts:
                    act(now - seen_at)
            finally:
                self._seen_at = _now()
                self._recovered_at = self._seen_at + _RECOVERY_S
        return now < self._recovered_at
