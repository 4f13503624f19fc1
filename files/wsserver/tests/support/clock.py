# SPDX-License-Identifier: MIT
"""An event loop whose clock jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _NoWaiting(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Advances the clock by the time that select() would have waited."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("the loop waits for something that no timer will bring")
        self.passed += max(timeout, 0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._selector_clock = _NoWaiting()
        super().__init__(self._selector_clock)

    def time(self) -> float:
        return self._selector_clock.passed
