# SPDX-License-Identifier: MIT
"""The background tasks of a worker, under a test's control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any


class Pausable:
    """For a class whose `run` lasts until it is cancelled."""

    run: Callable[[], Coroutine[Any, Any, None]]
    _running: asyncio.Task[None] | None = None

    def go_on(self) -> None:
        self._running = asyncio.create_task(self.run())

    async def pause(self) -> None:
        """Stop the tasks, as a SIGSTOP does; without a later resume, as a SIGKILL does."""
        if self._running is not None:
            assert not self._running.done(), self._running
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
            self._running = None
