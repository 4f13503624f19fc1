# SPDX-License-Identifier: MIT
"""The limits of a user and of an address over all workers: connections, rooms, and what a user
requests per second.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from wsserver.cluster.leased_counts import CountStore, LeasedCounts, Limited
from wsserver.limits.addresses import limited_address
from wsserver.limits.user_rate import UserRate
from wsserver.limits.user_total import UserTotal
from wsserver.status import NEARLY_FULL
from wsserver.telemetry import metrics


class Refusal(NamedTuple):
    """A refused connection, publish or join: the limit as the metric names it, and the reason for
    the client.
    """

    limit: str
    text: str


_REFUSALS = (
    None,
    Refusal("user_connections", "this user has too many connections"),
    Refusal("ip_connections", "this address has too many connections"),
)


# Bytes that each message costs the broker besides its data, about.
_MESSAGE_OVERHEAD = 512
# A new room costs some 5 KiB of memory, for as long as a large message in a bounded log.
_NEW_ROOM_BYTES = 2**16
_LEAST_SCALE = 1 / 64
# How often a query that waits for its user's rate is tried.
_QUERY_RETRY_S = 0.2


class UserRates(NamedTuple):
    """Publishes, bytes published, and queries (commands that read from a store)."""

    messages: UserRate
    bytes: UserRate
    queries: UserRate


class Quotas:
    """`per_user`, `per_ip`: how many connections a user and an address may have. `rooms`: the rooms
    of a user, each counted once for each of its connections there.

    See `limited_address`.
    """

    def __init__(self, store: CountStore, rates: UserRates, per_user: int, per_ip: int, rooms: UserTotal) -> None:
        self._counts = LeasedCounts(store)
        self._rates = rates
        self._per_user = per_user
        self._per_ip = per_ip
        self._rooms = rooms

    @property
    def available(self) -> bool:
        """Whether connections can be admitted."""
        return self._counts.available

    async def admit(self, user: str, ip: str) -> Refusal | None:
        """Count one more connection, unless a limit is reached.

        Raises BrokerUnavailable, and has then counted nothing.
        """
        claim = (Limited(_user(user), self._per_user), Limited(limited_address(ip), self._per_ip))
        return _REFUSALS[await self._counts.claim(0, claim)]

    def released(self, user: str, ip: str) -> None:
        """Count one connection less, which `admit` counted."""
        self._counts.add(0, _user(user), -1)
        self._counts.add(0, limited_address(ip), -1)

    def join(self, user: str) -> Refusal | None:
        """Whether a connection of the user may join one more room; if so, count it with `rooms`.

        Each membership takes memory of the broker.
        """
        if not self._rooms.reached(user):
            return None
        return Refusal("user_rooms", f"this user is in {self._rooms.most} rooms over all connections")

    def rooms(self, user: str, number: int) -> None:
        """A connection of the user joined so many rooms, or left them (below 0)."""
        self._rooms.add(user, number)

    def publish(self, user: str, size: int) -> Refusal | None:
        """Count one publish of `size` bytes, unless a rate is exceeded."""
        if not self._rates.messages.allow(user):
            return Refusal("user_messages", "this user publishes more than is allowed over all connections")
        if not self._rates.bytes.allow(user, size + _MESSAGE_OVERHEAD):
            return Refusal("user_bytes", "this user publishes more bytes than are allowed over all connections")
        return None

    def opened_room(self, user: str) -> None:
        """The user's publish was the first of its room, which takes memory for days."""
        self._rates.bytes.charge(user, _NEW_ROOM_BYTES)

    def squeeze(self, fullness: float) -> None:
        """Let each user publish fewer bytes while the broker is nearly full (`Broker.fullness`).

        A user with few messages does not notice.
        """
        self._rates.bytes.scale = min(1.0, max(_LEAST_SCALE, (1 - fullness) / (1 - NEARLY_FULL)))

    async def query(self, user: str) -> None:
        """Count one query; returns when the user's rate allows it."""
        if self._rates.queries.allow(user):
            return
        metrics.LIMITED.labels("user_queries").inc()
        while not self._rates.queries.allow(user):  # noqa: ASYNC110 - a rate raises no asyncio.Event
            await asyncio.sleep(_QUERY_RETRY_S)

    async def run(self) -> None:
        """Keep the counts and rates current, until cancelled. Survives outages of the store."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._counts.run())
            for limit in (*self._rates, self._rooms):
                tasks.create_task(limit.run())

    async def stop(self) -> None:
        """Release the counts and rates. Call after `run`."""
        await self._counts.stop(grace_s=0)
        for limit in (*self._rates, self._rooms):
            await limit.stop()


def _user(user: str) -> str:
    return f"user {user}"
