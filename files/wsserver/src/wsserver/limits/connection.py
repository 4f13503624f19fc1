# SPDX-License-Identifier: MIT
"""What one connection may do, and how the rest of it waits."""

from __future__ import annotations

from typing import NamedTuple

# What a connection saved up while it was quiet.
_BURST_S = 2.0


class Rate(NamedTuple):
    """So many units a second, and twice as many at once.

    A leaky bucket without a timer: whoever uses it keeps one number, the time until which the units so far are
    paid for. One unit too many is always let through, so that a large message passes a small rate, too.
    """

    per_s: float

    def late_s(self, paid_until: float, now: float) -> float:
        """Seconds until the next unit may come, 0 for now."""
        return max(0.0, paid_until - now - _BURST_S)

    def spend(self, paid_until: float, now: float, units: float) -> float:
        """The new time until which all is paid for."""
        return max(paid_until, now) + units / self.per_s


class ConnectionLimits(NamedTuple):
    frames: Rate
    bytes: Rate
    rooms: int
