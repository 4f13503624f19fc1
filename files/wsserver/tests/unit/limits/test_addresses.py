# SPDX-License-Identifier: MIT
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsserver.limits import addresses
from wsserver.limits.addresses import Refusals


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(addresses, "time", clock)
    return clock


def refused(refusals: Refusals, ip: str, most: int = 1000) -> int:
    """How many requests of this address are checked, of `most` that are all wrong."""
    checked = 0
    for _ in range(most):
        if not refusals.exceeded(ip):
            refusals.count(ip)
            checked += 1
    return checked


def test_the_rate_of_an_address(clock: Clock) -> None:
    refusals = Refusals(per_s=10)
    assert 20 <= refused(refusals, "192.0.2.1") <= 21
    assert not refusals.exceeded("192.0.2.2")
    clock.now += 1
    assert 9 <= refused(refusals, "192.0.2.1") <= 11
    clock.now += 60
    assert not refusals.exceeded("192.0.2.1")


def test_the_network_of_an_ipv6_address_counts_as_one(clock: Clock) -> None:
    refusals = Refusals(per_s=1)
    refused(refusals, "2001:db8::1")
    assert refusals.exceeded("2001:db8::ffff")
    assert not refusals.exceeded("2001:db8:0:1::1")


def test_many_addresses_take_bounded_memory(clock: Clock) -> None:
    refusals: Any = Refusals(per_s=10)
    for n in range(25_000):
        refusals.count(f"10.0.{n // 250}.{n % 250}")
        clock.now += 0.001
    assert len(refusals._paid_until) <= 10_000


def test_one_log_line_for_all_requests_that_are_not_checked(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []
    warn: Callable[..., None] = lambda event, **fields: lines.append({"event": event, **fields})  # noqa: E731
    monkeypatch.setattr(addresses.log, "warning", warn)
    refusals = Refusals(per_s=1)
    refused(refusals, "192.0.2.1", 100)
    refused(refusals, "192.0.2.2", 10)
    refusals.tick()
    [line] = lines
    assert line["event"] == "refused_unchecked"
    assert line["most_from"] == "192.0.2.1"
    assert line["requests"] > line["most"] > 90
    refusals.exceeded("192.0.2.1")
    clock.now += 5
    refused(refusals, "192.0.2.1", 50)
    refusals.tick()
    assert len(lines) == 1, "one line in 10 s"
    clock.now += 5
    refusals.tick()
    assert len(lines) == 2


def test_the_addresses_of_one_network_take_the_memory_of_one(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(addresses.log, "warning", lambda _event, **fields: lines.append(fields))
    refusals: Any = Refusals(per_s=1)
    for n in range(1000):
        refused(refusals, f"2001:db8::{n:x}", 1)
    assert len(refusals._unlogged) == 1
    refusals.tick()
    [line] = lines
    assert line["most"] == line["requests"] > 990
