# SPDX-License-Identifier: MIT
"""Waits between attempts: exponential and fully random, so that many clients do not reconnect at
once.
"""

from __future__ import annotations

import random

FIRST_S = 1.0
MOST_S = 20.0


class Backoff:
    def __init__(self) -> None:
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next(self) -> float:
        """The seconds to wait after one more failure."""
        longest = min(MOST_S, FIRST_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return random.uniform(0, longest)
