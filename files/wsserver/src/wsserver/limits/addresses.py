# SPDX-License-Identifier: MIT
"""The limits of an address that has shown no valid token: requests to connect that are refused."""

from __future__ import annotations

import time
from collections import Counter
from ipaddress import IPv6Address, ip_address

from wsserver.limits.connection import Rate
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# Addresses to remember. An attacker with more of them costs memory for no more than these.
_ADDRESSES_MAX = 10_000
_SUMMARY_S = 10.0


def limited_address(ip: str) -> str:
    """What a limit counts for an address.

    An IPv6 address counts as its /64, which one customer has. Text that is no address counts as
    itself.
    """
    if ":" in ip:
        try:
            address = ip_address(ip)
        except ValueError:
            return f"ip {ip}"
        if isinstance(address, IPv6Address):
            mapped = address.ipv4_mapped
            ip = str(mapped) if mapped else f"{address.packed[:8].hex()}/64"
    return f"ip {ip}"


class Refusals:
    """Bounds how often one address makes the worker check a request that it then refuses.

    per_s: refusals per second of an address, and twice as many at once. Beyond that its requests
    are answered without a check, and the log has one line for all of them each 10 seconds.
    """

    def __init__(self, per_s: float) -> None:
        self._rate = Rate(per_s)
        self._paid_until: dict[str, float] = {}
        self._unlogged: Counter[str] = Counter()
        self._summary_at = 0.0

    def count(self, ip: str) -> None:
        """A request of this address was checked and refused."""
        address, now = limited_address(ip), time.monotonic()
        if len(self._paid_until) >= _ADDRESSES_MAX and address not in self._paid_until:
            self._paid_until = {known: until for known, until in self._paid_until.items() if until > now}
            if len(self._paid_until) >= _ADDRESSES_MAX:
                self._paid_until.clear()
        self._paid_until[address] = self._rate.spend(self._paid_until.get(address, 0.0), now, 1)

    def exceeded(self, ip: str) -> bool:
        """Whether to refuse a request of this address without a check. If so, counts it."""
        address = limited_address(ip)
        if not self._rate.late_s(self._paid_until.get(address, 0.0), time.monotonic()):
            return False
        metrics.LIMITED.labels("ip_refusals").inc()
        self._unlogged[address] += 1
        return True

    def tick(self) -> None:
        """Log the refusals of the last seconds that have no line of their own. Call often."""
        now = time.monotonic()
        if self._unlogged and now >= self._summary_at:
            self._summary_at = now + _SUMMARY_S
            [(address, count)] = self._unlogged.most_common(1)
            log.warning(
                "refused_unchecked",
                requests=self._unlogged.total(),
                most_from=address.removeprefix("ip "),
                most=count,
            )
            self._unlogged.clear()
