# SPDX-License-Identifier: MIT
"""The reports by which workers share a limit of a user without asking a store each time.

Each worker counts for itself. Once a second, it reports the users who take a notable part of the
limit here, and learns what they take on all workers.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from typing import Protocol

from wsserver.errors import BrokerError
from wsserver.runtime.tasks import apart

PERIOD_S = 1.0
# A worker reports only users who take at least this part of the limit.
_NOTABLE = 1 / 16


class ReportStore(Protocol):
    async def exchange(self, numbers: dict[str, float]) -> dict[str, float]:
        """Report the number of each user on this worker; returns the sums over all workers.

        A report counts for a little more than two seconds. Raises BrokerUnavailable.
        """

    async def close(self) -> None: ...


class Reported(ABC):
    """`store`: None if this is the only worker."""

    def __init__(self, limit: float, store: ReportStore | None) -> None:
        self._store = store
        self._notable = max(1, math.ceil(limit * _NOTABLE))

    async def run(self) -> None:
        """Report once a second, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.turn()

    @abstractmethod
    async def turn(self) -> None:
        """Report, and heed the answer. While the store is unavailable, its last answer holds."""

    async def _exchange(self, numbers: dict[str, float]) -> dict[str, float] | None:
        """The sums over all workers; None if the store is unavailable, or this is the only worker."""
        if self._store is None:
            return None
        try:
            return await apart(self._store.exchange(numbers)) if numbers else {}
        except (BrokerError, TimeoutError):
            return None

    async def stop(self) -> None:
        """Close the store. Call after `run`."""
        if self._store is not None:
            await self._store.close()
