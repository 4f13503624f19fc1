# SPDX-License-Identifier: MIT
"""Publishes per user and second over several workers, on a real Redis, with a clock that tests set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest
from support.members import calls
from support.redis_server import RedisServer
from support.wait import until

from wsserver.limits import user_rate as rates
from wsserver.limits.user_rate import UserRate
from wsserver.storage.redis.connection import RedisAddress
from wsserver.storage.redis.user_rate import RedisRates

LIMIT = 200


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rates, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
async def worker(redis: RedisServer, clock: Clock) -> AsyncIterator[Callable[[], UserRate]]:
    workers: list[UserRate] = []

    def start(limit: float = LIMIT) -> UserRate:
        workers.append(UserRate(limit, RedisRates(RedisAddress(redis.url), "rate")))
        return workers[-1]

    yield start
    for each in workers:
        await each.stop()


def burst(place: UserRate, user: str = "alice", most: int = 100_000) -> int:
    """How many of `most` publishes are allowed at this moment."""
    return sum(place.allow(user) for _ in range(most))


async def second(clock: Clock, offered: dict[UserRate, int], user: str = "alice") -> dict[UserRate, int]:
    """Offer each worker so many publishes, evenly over one second; returns how many each allows."""
    passed = dict.fromkeys(offered, 0)
    for _step in range(50):
        clock.now += 0.02
        for place, number in offered.items():
            passed[place] += burst(place, user, number // 50)
    for place in offered:
        await place.turn()
    return passed


@pytest.mark.parametrize("limit", [1, 3.5, 200, 1_000_000])
def test_a_burst_of_twice_the_rate_and_then_the_rate(clock: Clock, limit: float) -> None:
    alone = UserRate(limit, None)
    assert burst(alone, most=int(2 * limit)) == int(2 * limit)
    assert not alone.allow("alice")
    clock.now += 2 / limit
    assert alone.allow("alice")
    assert alone.allow("bob"), "another user"


async def test_a_user_within_the_limit_is_never_refused(clock: Clock) -> None:
    alone = UserRate(LIMIT, None)
    for _ in range(20):
        assert await second(clock, {alone: LIMIT}) == {alone: LIMIT}


async def test_a_user_who_wants_more_gets_the_limit(clock: Clock) -> None:
    alone = UserRate(LIMIT, None)
    passed = [(await second(clock, {alone: 2 * LIMIT}))[alone] for _ in range(10)]
    assert sum(passed) == pytest.approx(12 * LIMIT, rel=0.01)


@pytest.mark.parametrize(
    "offered",
    [(400, 400), (200, 200), (150, 100), (1000, 50), (100, 100, 100, 100), (400, 0), (50,) * 8],
)
async def test_the_limit_holds_over_several_workers(
    clock: Clock, worker: Callable[[], UserRate], offered: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reports expire by Redis's clock. On a slow machine, that clock must not run ahead of the clock
    # of the test.
    monkeypatch.setattr("wsserver.storage.redis.user_rate._REPORT_MS", 60_000)
    workers = [worker() for _ in offered]
    wanted = dict(zip(workers, offered, strict=True))
    for _ in range(4):
        await second(clock, wanted)
    for _ in range(4):
        passed = sum((await second(clock, wanted)).values())
        assert 0.75 * LIMIT <= passed <= 1.25 * LIMIT


async def test_two_workers_together_below_the_limit_refuse_nothing(
    clock: Clock, worker: Callable[[], UserRate]
) -> None:
    one, two = worker(), worker()
    for _ in range(6):
        assert await second(clock, {one: 150, two: 50}) == {one: 150, two: 50}


async def test_a_worker_gets_the_part_that_another_no_longer_uses(clock: Clock, worker: Callable[[], UserRate]) -> None:
    one, two = worker(), worker()
    for _ in range(4):
        await second(clock, {one: 400, two: 400})
    await asyncio.sleep(3)  # the reports expire by Redis's clock
    for _ in range(2):
        passed = await second(clock, {one: 400, two: 0})
    assert passed[one] == pytest.approx(LIMIT, rel=0.05)


async def test_a_user_well_below_the_limit_costs_redis_nothing(
    redis: RedisServer, clock: Clock, worker: Callable[[], UserRate]
) -> None:
    one = worker()
    before = calls(redis)
    for _ in range(3):
        for n in range(200):
            burst(one, f"u{n}", 12)
        await second(clock, {one: 0})
    assert (calls(redis) - before)["evalsha"] == 0
    burst(one, "u0", 13)
    burst(one, "u1", 13)
    burst(one, "u2", 12)
    await second(clock, {one: 0})
    assert sum(count for name, count in (calls(redis) - before).items() if name.startswith("eval")) <= 4
    client = redis.client()
    keys = {key.decode().partition(":rate:")[2]: client.pttl(key) for key in client.keys("*")}
    assert set(keys) == {"u0", "u1"}
    assert all(0 < ttl <= 2500 for ttl in keys.values())


async def test_idle_users_are_forgotten(clock: Clock) -> None:
    alone = UserRate(LIMIT, None)
    for n in range(1000):
        burst(alone, f"u{n}", 1)
    assert len(alone._young) + len(alone._old) == 1000
    for _ in range(4):
        await second(clock, {alone: 50}, "busy")
    assert set(alone._young) | set(alone._old) == {"busy"}
    assert burst(alone, "u0") == 2 * LIMIT


async def test_forgetting_a_user_grants_no_more_than_the_rate(clock: Clock) -> None:
    alone = UserRate(LIMIT, None)
    burst(alone)
    passed = 0
    for _ in range(10):  # the whole limit in one burst, every two seconds
        await second(clock, {alone: 0})
        await second(clock, {alone: 0})
        passed += burst(alone)
    assert passed == pytest.approx(20 * LIMIT, abs=20)


async def test_without_redis_each_worker_keeps_its_last_rates(
    redis: RedisServer, clock: Clock, worker: Callable[[], UserRate]
) -> None:
    one, two = worker(), worker()
    for _ in range(4):
        await second(clock, {one: 400, two: 400})
    redis.kill()
    for _ in range(3):
        passed = await second(clock, {one: 400, two: 400})
        assert sum(passed.values()) == pytest.approx(LIMIT, rel=0.1)
    redis.start()
    for _ in range(2):
        await second(clock, {one: 400, two: 400})
    assert redis.client().keys("*:rate:alice")


async def test_run_ends_a_period_each_second(redis: RedisServer) -> None:
    one = UserRate(LIMIT, RedisRates(RedisAddress(redis.url), "rate"))
    running = asyncio.create_task(one.run())
    burst(one)
    await until(lambda: redis.client().keys("*:rate:alice"))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await one.stop()


async def test_silence_does_not_pay_a_debt_faster(clock: Clock) -> None:
    worker = UserRate(LIMIT, None)
    assert worker.allow("alice")
    worker.charge("alice", 20 * LIMIT)
    for _second in range(15):
        clock.now += 1
        await worker.turn()
    assert not worker.allow("alice")
    for _second in range(10):
        clock.now += 1
        await worker.turn()
    assert burst(worker) == 2 * LIMIT
