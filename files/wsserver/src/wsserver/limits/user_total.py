# SPDX-License-Identifier: MIT
"""A limit of what a user has at a time over all workers: the rooms that its connections are in.

Each worker knows what its users have elsewhere from its last report. So a join asks no store.
"""

from __future__ import annotations

from wsserver.limits.reports import Reported, ReportStore


class UserTotal(Reported):
    """`most`: the limit; `store`: None if this is the only worker.

    Over several workers, a user may exceed the limit by what it takes within a second or two, and
    by a sixteenth on each worker.
    """

    def __init__(self, most: int, store: ReportStore | None) -> None:
        super().__init__(most, store)
        self.most = most
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

    async def turn(self) -> None:
        """Report the users who have a notable part of the limit on this worker."""
        self._busy = {user for user in self._busy if self._here.get(user, 0) >= self._notable}
        here = {user: float(self._here[user]) for user in self._busy}
        totals = await self._exchange(here)
        if totals is None:
            return
        self._elsewhere = {user: max(0, round(total - here[user])) for user, total in totals.items()}
