# SPDX-License-Identifier: MIT
"""A limit of what a user has at a time over all workers: the rooms that its connections are in.

Each worker counts for itself. Once a second, it reports the users who have a notable part of the
limit here, and learns what they have elsewhere. So a join asks no store.
"""

from __future__ import annotations

import asyncio
import math

from wsserver.errors import BrokerError
from wsserver.limits.user_rate import RateStore

_PERIOD_S = 1.0
# A worker reports only users who have at least this part of the limit.
_NOTABLE = 1 / 16


class UserTotal:
    """`most`: the limit; `store`: None if this is the only worker.

    Over several workers, a user may exceed the limit by what it takes within a second or two, and
    by a sixteenth on each worker.
    """

    def __init__(self, most: int, store: RateStore | None) -> None:
        self.most = most
        self._store = store
        self._notable = max(1, math.ceil(most * _NOTABLE))
        self._here: dict[str, int] = {}
        self._elsewhere: dict[str, int] = {}
        self._busy: set[str] = set()  # users who have a notable part

    def reached(self, user: str) -> bool:
        """Whether the user has all that it may have."""
        return self._here.get(user, 0) + self._elsewhere.get(user, 0) >= self.most

    def add(self, user: str, number: int) -> None:
        count = self._here.get(user, 0) + number
        if count:
            self._here[user] = count
        else:
            self._here.pop(user, None)
        if count >= self._notable:
            self._busy.add(user)

    async def run(self) -> None:
        """Report once a second, until cancelled.

        While the store is unavailable, its last answer holds.
        """
        while True:
            await asyncio.sleep(_PERIOD_S)
            await self.turn()

    async def stop(self) -> None:
        """Close the store. Call after `run`."""
        if self._store is not None:
            await self._store.close()

    async def turn(self) -> None:
        """Report the users who have a notable part of the limit on this worker."""
        self._busy = {user for user in self._busy if self._here.get(user, 0) >= self._notable}
        if self._store is None:
            return
        here = {user: float(self._here[user]) for user in self._busy}
        try:
            totals = await self._store.exchange(here) if here else {}
        except BrokerError:
            return
        self._elsewhere = {user: max(0, round(total - here[user])) for user, total in totals.items()}
