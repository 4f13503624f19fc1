# SPDX-License-Identifier: MIT
"""Connections over several workers, on a real Redis."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from support.members import LEASE_S, calls
from support.pausable import Pausable
from support.redis_server import RedisServer
from support.wait import until

from wsserver.cluster.leased_counts import CountStore
from wsserver.errors import BrokerUnavailable
from wsserver.limits.quotas import Quotas, UserRates
from wsserver.limits.user_rate import UserRate
from wsserver.limits.user_total import UserTotal
from wsserver.storage.memory.counts import MemoryCounts
from wsserver.storage.redis.connection import RedisAddress
from wsserver.storage.redis.counts import RedisCounts

PER_USER = 3
PER_IP = 5


class Worker(Pausable, Quotas):
    def __init__(self, store: CountStore, per_user: int = PER_USER, per_ip: int = PER_IP) -> None:
        self.store = store
        super().__init__(
            store, UserRates(*(UserRate(1000, None) for _ in range(3))), per_user, per_ip, UserTotal(10, None)
        )

    async def start(self) -> None:
        self.go_on()
        await until(lambda: self._counts.available)

    async def until_admitted(self, user: str, ip: str) -> None:
        async with asyncio.timeout(30):
            refusal = await self.admit(user, ip)
            while refusal is not None:
                await asyncio.sleep(0.05)
                refusal = await self.admit(user, ip)


Start = Callable[..., Any]


@pytest.fixture
async def worker(redis: RedisServer) -> AsyncIterator[Start]:
    """Start a worker's quotas."""
    workers: list[Worker] = []

    async def start(**limits: int) -> Worker:
        workers.append(Worker(RedisCounts(RedisAddress(redis.url), LEASE_S), **limits))
        await workers[-1].start()
        return workers[-1]

    yield start
    for each in workers:
        await each.pause()
        await each.store.close()


async def refused(worker: Worker, user: str, ip: str) -> str | None:
    refusal = await worker.admit(user, ip)
    return refusal and refusal.limit


def totals(redis: RedisServer) -> dict[str, int]:
    found = redis.client().hgetall("ws:1:{0}:connections:totals")
    return {key.decode(): int(count) for key, count in found.items()}


async def until_totals(redis: RedisServer, expected: dict[str, int]) -> None:
    await until(lambda: totals(redis) == expected)


async def test_the_connections_of_a_user_are_limited_over_all_workers(redis: RedisServer, worker: Start) -> None:
    one, two = await worker(), await worker()
    for n in range(PER_USER):
        assert await refused([one, two][n % 2], "alice", f"10.0.0.{n}") is None
    for place in (one, two):
        assert await refused(place, "alice", "10.0.0.9") == "user_connections"
    assert await refused(two, "bob", "10.0.0.9") is None
    assert totals(redis)["user alice"] == PER_USER
    one.released("alice", "10.0.0.0")
    await two.until_admitted("alice", "10.0.0.9")
    assert await refused(one, "alice", "10.0.0.9") == "user_connections"


async def test_the_connections_of_an_address_are_limited_over_all_workers(redis: RedisServer, worker: Start) -> None:
    one, two = await worker(), await worker()
    for n in range(PER_IP):
        assert await refused([one, two][n % 2], f"u{n}", "10.0.0.1") is None
    for place in (one, two):
        assert await refused(place, "alice", "10.0.0.1") == "ip_connections"
    assert await refused(one, "alice", "10.0.0.2") is None
    assert "user alice" in totals(redis)
    assert totals(redis)["user alice"] == 1, "what was refused is counted"
    two.released("u1", "10.0.0.1")
    await one.until_admitted("alice", "10.0.0.1")


async def test_a_closed_connection_frees_its_place_at_once(worker: Start) -> None:
    one = await worker()
    for _ in range(PER_USER):
        assert await one.admit("alice", "10.0.0.1") is None
    for _ in range(20):
        one.released("alice", "10.0.0.1")
        assert await one.admit("alice", "10.0.0.1") is None
        assert await refused(one, "alice", "10.0.0.1") == "user_connections"


@pytest.mark.parametrize(
    ("ip", "same", "other"),
    [
        ("2001:db8:1:2::3", "2001:db8:1:2:ffff::4", "2001:db8:1:3::3"),
        ("::ffff:10.0.0.1", "10.0.0.1", "::ffff:10.0.0.2"),
        ("10.0.0.1", "::ffff:10.0.0.1", "10.0.1.1"),
        ("", "", "::1"),
        ("not:an:address", "not:an:address", "not:another"),
    ],
)
async def test_what_counts_as_one_address(ip: str, same: str, other: str, worker: Start) -> None:
    one = await worker(per_ip=1)
    assert await refused(one, "alice", ip) is None
    assert await refused(one, "bob", same) == "ip_connections"
    assert await refused(one, "bob", other) is None


async def test_a_user_and_an_address_of_the_same_name_are_counted_apart(worker: Start) -> None:
    one = await worker(per_user=1, per_ip=1)
    assert await refused(one, "10.0.0.1", "10.0.0.2") is None
    assert await refused(one, "10.0.0.2", "10.0.0.1") is None
    assert await refused(one, "10.0.0.1", "10.0.0.3") == "user_connections"


async def test_many_at_once_are_counted_exactly_and_in_few_commands(redis: RedisServer, worker: Start) -> None:
    workers = [await worker(per_user=1000, per_ip=2000) for _ in range(3)]
    before = calls(redis)
    asked = [(workers[n % 3], f"u{n % 3}") for n in range(6000)]
    refusals = await asyncio.gather(*(refused(place, user, "10.0.0.1") for place, user in asked))
    assert refusals.count(None) == 2000
    assert totals(redis)["ip 10.0.0.1"] == 2000
    assert sum(count for key, count in totals(redis).items() if key.startswith("user")) == 2000
    assert (calls(redis) - before)["evalsha"] < 6000 / 50
    assert {"user_connections", "ip_connections"} >= {*refusals} - {None}


async def test_admissions_one_after_the_other_share_a_command_when_they_overlap(
    redis: RedisServer, worker: Start
) -> None:
    """A steady 2,500 a second."""
    one = await worker(per_user=10_000, per_ip=10_000)
    before = calls(redis)
    started = asyncio.get_running_loop().time()
    admissions = []
    for n in range(50):
        admissions += [asyncio.create_task(one.admit(f"u{n}", "10.0.0.1")) for _ in range(50)]
        await asyncio.sleep(0.02)
    assert await asyncio.gather(*admissions) == [None] * 2500
    elapsed = asyncio.get_running_loop().time() - started
    assert (calls(redis) - before)["evalsha"] <= elapsed / 0.005 + 10


async def test_the_connections_of_a_killed_worker_are_free_again(redis: RedisServer, worker: Start) -> None:
    dead, one = await worker(), await worker()
    for _ in range(PER_USER):
        assert await dead.admit("alice", "10.0.0.1") is None
    assert await one.admit("bob", "10.0.0.1") is None
    await dead.pause()
    assert await refused(one, "alice", "10.0.0.2") == "user_connections"
    await until_totals(redis, {"user bob": 1, "ip 10.0.0.1": 1})
    for _ in range(PER_USER):
        assert await refused(one, "alice", "10.0.0.1") is None


async def test_a_worker_that_was_given_up_sends_its_counts_again(redis: RedisServer, worker: Start) -> None:
    paused, other = await worker(), await worker()
    for _ in range(PER_USER):
        assert await paused.admit("alice", "10.0.0.1") is None
    await paused.pause()
    await until_totals(redis, {})
    for _ in range(PER_USER):
        assert await other.admit("alice", "10.0.0.1") is None
    await paused.start()
    await until_totals(redis, {"user alice": 2 * PER_USER, "ip 10.0.0.1": 2 * PER_USER})  # more than the limit
    for place in (paused, other):
        assert await refused(place, "alice", "10.0.0.2") == "user_connections"
    for _ in range(PER_USER):
        paused.released("alice", "10.0.0.1")
    await until_totals(redis, {"user alice": PER_USER, "ip 10.0.0.1": PER_USER})


async def test_a_worker_that_stops_takes_its_connections_with_it(redis: RedisServer, worker: Start) -> None:
    one, two = await worker(), await worker()
    for user in ("alice", "bob"):
        assert await one.admit(user, "10.0.0.1") is None
    one.released("alice", "10.0.0.1")
    await one.pause()
    await one.stop()
    await until_totals(redis, {})
    assert await two.admit("alice", "10.0.0.1") is None


async def test_while_redis_is_unavailable_no_client_is_admitted(redis: RedisServer, worker: Start) -> None:
    one = await worker()
    assert await one.admit("alice", "10.0.0.1") is None
    redis.kill()
    with pytest.raises(BrokerUnavailable):
        await one.admit("alice", "10.0.0.1")
    async with asyncio.timeout(0.5):  # later requests fail at once
        with pytest.raises(BrokerUnavailable):
            await one.admit("alice", "10.0.0.1")
    redis.start()
    await until(lambda: one._counts.available)
    await until_totals(redis, {"user alice": 1, "ip 10.0.0.1": 1})
    assert await one.admit("alice", "10.0.0.1") is None


async def test_admissions_whose_answer_was_lost_are_not_counted(redis: RedisServer, worker: Start) -> None:
    one = await worker()
    assert await one.admit("alice", "10.0.0.1") is None
    redis.signal(signal.SIGSTOP)
    try:
        with pytest.raises(BrokerUnavailable):
            await one.admit("alice", "10.0.0.1")
    finally:
        redis.signal(signal.SIGCONT)
    await until(lambda: one._counts.available)
    await until_totals(redis, {"user alice": 1, "ip 10.0.0.1": 1})


async def test_a_client_that_gives_up_is_not_counted(redis: RedisServer, worker: Start) -> None:
    one = await worker(per_user=1000, per_ip=1000)
    for turns in range(30):
        asking = [asyncio.create_task(one.admit("alice", "10.0.0.1")) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0 if turns % 2 else 0.001)
        for task in asking:
            task.cancel()
        for result in await asyncio.gather(*asking, return_exceptions=True):
            if result is None:
                one.released("alice", "10.0.0.1")
    assert await one.admit("bob", "10.0.0.2") is None
    await until_totals(redis, {"user bob": 1, "ip 10.0.0.2": 1})


async def test_a_full_redis_still_admits(redis: RedisServer, worker: Start) -> None:
    one = await worker()
    redis.client().config_set("maxmemory", 1)
    assert await one.admit("alice", "10.0.0.1") is None


async def test_the_totals_are_right_after_any_disturbance(redis: RedisServer, worker: Start) -> None:
    """Clients come and go on three workers while Redis and the workers are paused and killed."""
    chance = random.Random(7)
    workers = [await worker(per_user=20, per_ip=30) for _ in range(3)]
    held: list[list[tuple[str, str]]] = [[], [], []]
    going_on = True

    async def clients(number: int) -> None:
        place, mine = workers[number], held[number]
        while going_on:
            if mine and chance.random() < 0.45:
                place.released(*mine.pop(chance.randrange(len(mine))))
            else:
                who = (f"u{chance.randrange(4)}", f"10.0.0.{chance.randrange(3)}")
                with suppress(BrokerUnavailable):
                    if await place.admit(*who) is None:
                        mine.append(who)
            await asyncio.sleep(0.002)

    tasks = [asyncio.create_task(clients(n)) for n in range(3) for _ in range(4)]
    await asyncio.sleep(0.5)
    redis.kill()
    redis.start()
    await asyncio.sleep(0.5)
    await workers[0].pause()
    await asyncio.sleep(LEASE_S * 1.8)
    await workers[0].start()
    redis.signal(signal.SIGSTOP)
    await asyncio.sleep(LEASE_S * 1.8)
    redis.signal(signal.SIGCONT)
    await asyncio.sleep(0.5)
    redis.kill()
    redis.start()
    await until(lambda: sum(map(len, held)) > 20)  # during the outage clients could only leave
    going_on = False
    await asyncio.gather(*tasks)
    expected: Counter[str] = Counter()
    for user, ip in (who for mine in held for who in mine):
        expected[f"user {user}"] += 1
        expected[f"ip {ip}"] += 1
    assert expected.total() > 20
    await until_totals(redis, dict(expected))


async def test_quotas_in_memory() -> None:
    one = Worker(MemoryCounts(), per_user=2, per_ip=3)
    await one.start()
    for _ in range(2):
        assert await refused(one, "alice", "10.0.0.1") is None
    assert await refused(one, "alice", "10.0.0.1") == "user_connections"
    assert await refused(one, "bob", "10.0.0.1") is None
    assert await refused(one, "carol", "10.0.0.1") == "ip_connections"
    one.released("alice", "10.0.0.1")
    assert await refused(one, "carol", "10.0.0.1") is None
    assert one.publish("alice", 10) is None
    await one.pause()
    await one.stop()


async def test_the_rates_of_a_user() -> None:
    rates = UserRates(messages=UserRate(5, None), bytes=UserRate(10_000, None), queries=UserRate(10, None))
    quotas = Quotas(MemoryCounts(), rates, 10, 10, UserTotal(10, None))
    assert [quotas.publish("alice", 10) for _ in range(10)] == [None] * 10
    refusal = quotas.publish("alice", 10)
    assert refusal is not None
    assert refusal.limit == "user_messages"
    assert quotas.publish("bob", 50_000) is None, "one large message passes"
    refusal = quotas.publish("bob", 1)
    assert refusal is not None
    assert refusal.limit == "user_bytes"
    begin = time.monotonic()
    for _ in range(25):
        await quotas.query("alice")
    waited = time.monotonic() - begin
    assert waited > 0.3, "5 queries more than 10 a second and a burst of 20"
    await quotas.query("bob")


async def test_users_get_fewer_bytes_while_the_broker_is_nearly_full() -> None:
    rates = UserRates(messages=UserRate(1000, None), bytes=UserRate(100_000, None), queries=UserRate(10, None))
    quotas = Quotas(MemoryCounts(), rates, 10, 10, UserTotal(10, None))

    def publishes(user: str, size: int) -> int:
        """How many publishes of this size pass at once."""
        return sum(quotas.publish(user, size) is None for _ in range(100))

    quotas.squeeze(0.5)
    assert publishes("alice", 10_000) >= 19
    quotas.squeeze(0.9)
    assert 9 <= publishes("bob", 10_000) <= 11
    quotas.squeeze(1.0)
    assert publishes("carol", 10_000) == 1
    assert publishes("dave", 10) >= 5, "a chat goes on"
    quotas.squeeze(0.1)
    assert publishes("erin", 10_000) >= 19


async def test_new_rooms_count_like_large_messages() -> None:
    rates = UserRates(messages=UserRate(1000, None), bytes=UserRate(2**20, None), queries=UserRate(10, None))
    quotas = Quotas(MemoryCounts(), rates, 10, 10, UserTotal(10, None))
    opened = 0
    while quotas.publish("alice", 1) is None:
        quotas.opened_room("alice")
        opened += 1
        assert opened < 100
    assert 25 <= opened <= 35
    assert quotas.publish("bob", 1) is None


async def test_a_cancellation_left_behind_does_not_end_the_counting(
    worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout of the client library may leave it behind."""
    one = await worker()

    async def cancelled(*_arguments: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(one.store, "update", cancelled)
        with pytest.raises(BrokerUnavailable):
            await one.admit("alice", "10.0.0.1")
        await until(lambda: not one.available)
    await until(lambda: one.available)
    assert await one.admit("alice", "10.0.0.1") is None


class InterruptedStore:
    """Its client library leaves a cancellation behind."""

    async def exchange(self, numbers: dict[str, float]) -> dict[str, float]:
        raise asyncio.CancelledError

    async def close(self) -> None:
        pass


async def test_a_cancellation_left_behind_does_not_end_the_reports() -> None:
    rate, total = UserRate(1, InterruptedStore()), UserTotal(1, InterruptedStore())
    rate.charge("alice", 5)
    total.add("alice", 1)
    for limit in (rate, total):
        await limit.turn()
    assert not rate.allow("alice")
    assert total.reached("alice")
