# SPDX-License-Identifier: MIT
"""What a user, and an address, may have over all workers: so many connections, so many publishes a second."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from wsserver.cluster.leased_counts import CountStore, LeasedCounts, Limited
from wsserver.limits.user_rate import PublishRates


class Refusal(NamedTuple):
    """Which limit refuses a connection, as in the metric, and why, for the client."""

    limit: str
    text: str


_REFUSALS = (
    None,
    Refusal("user_connections", "this user has too many connections"),
    Refusal("ip_connections", "this address has too many connections"),
)


class Quotas:
    """`per_user`, `per_ip`: the connections that one may have. An IPv6 address counts with its /64, which is one
    customer's; anything that is not an address counts as it is."""

    def __init__(self, store: CountStore, rates: PublishRates, per_user: int, per_ip: int) -> None:
        self._counts = LeasedCounts(store)
        self._rates = rates
        self.allow = rates.allow
        self._per_user = per_user
        self._per_ip = per_ip

    @property
    def available(self) -> bool:
        """Whether connections can be admitted."""
        return self._counts.available

    async def admit(self, user: str, ip: str) -> Refusal | None:
        """Count one more connection, unless that is too many. Raises BrokerUnavailable: then it is not counted."""
        claim = (Limited(_user(user), self._per_user), Limited(_address(ip), self._per_ip))
        return _REFUSALS[await self._counts.claim(0, claim)]

    def released(self, user: str, ip: str) -> None:
        """A connection that was admitted is gone."""
        self._counts.add(0, _user(user), -1)
        self._counts.add(0, _address(ip), -1)

    async def run(self) -> None:
        """Until cancelled; survives outages of the store."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._counts.run())
            tasks.create_task(self._rates.run())

    async def stop(self) -> None:
        """After `run`."""
        await self._counts.stop(grace_s=0)
        await self._rates.stop()


def _user(user: str) -> str:
    return f"user {user}"


def _address(ip: str) -> str:
    if ":" in ip:
        try:
            address = ip_address(ip)
        except ValueError:
            return f"ip {ip}"
        if isinstance(address, IPv6Address):
            mapped = address.ipv4_mapped
            ip = str(mapped) if mapped else f"{address.packed[:8].hex()}/64"
    return f"ip {ip}"
