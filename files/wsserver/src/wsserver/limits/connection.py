# SPDX-License-Identifier: MIT
"""The limits of one connection: frames and bytes per second, and rooms."""

from __future__ import annotations

from typing import NamedTuple

# A connection that was quiet may send as much at once as the rate allows in this time.
_BURST_S = 2.0


class Rate(NamedTuple):
    """A number of units per second, and twice as many at once.

    A leaky bucket without a timer: the caller keeps one number, the time until which the units so
    far are paid for. One unit too many always passes, so that a large message passes a small rate.
    """

    per_s: float

    def late_s(self, paid_until: float, now: float) -> float:
        """Seconds until the next unit is allowed; 0 if it is allowed now."""
        late = paid_until - now - _BURST_S
        return late if late > 0 else 0.0

    def spend(self, paid_until: float, now: float, units: float) -> float:
        """The new time until which all units are paid for."""
        return max(paid_until, now) + units / self.per_s


class ConnectionLimits(NamedTuple):
    frames: Rate
    bytes: Rate
    rooms: int
