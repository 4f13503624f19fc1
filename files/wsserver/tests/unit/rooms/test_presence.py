# SPDX-License-Identifier: MIT
"""Presence over several workers, on a real Redis."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.members import GRACE_S, LEASE_S, MemberEvents, Worker, calls
from support.redis_server import RedisServer
from support.wait import until

from wsserver.cluster.leased_counts import CHUNK, Update, Updated
from wsserver.errors import BrokerUnavailable
from wsserver.protocol.events import PresenceMember, PresencePage
from wsserver.protocol.types import Message
from wsserver.rooms.broker import Delivered
from wsserver.rooms.presence import Presence
from wsserver.storage.memory.counts import MemoryPresence
from wsserver.storage.redis.broker import RedisBroker
from wsserver.storage.redis.connection import RedisAddress
from wsserver.storage.redis.keys import LogLimits
from wsserver.storage.redis.presence import RedisPresence
from wsserver.telemetry import metrics

Start = Callable[..., Worker]


@pytest.fixture
async def worker(redis: RedisServer) -> AsyncIterator[Start]:
    """Start a worker's presence."""
    workers: list[Worker] = []

    def start(**options: Any) -> Worker:
        workers.append(Worker(redis, **options).start())
        return workers[-1]

    yield start
    for each in workers:
        await each.pause()
        await each.store.close()


@pytest.fixture
def events(redis: RedisServer) -> MemberEvents:
    return MemberEvents(redis)


async def test_the_first_connection_joins_and_the_last_one_leaves(worker: Start, events: MemberEvents) -> None:
    one, two = worker(), worker()
    for place in (one, one, two):
        place.entered("r", "alice")
    two.entered("r", "bob")
    await one.until_members("r", {"alice": 3, "bob": 1})
    assert sorted(events.read()) == [("r", "alice", True), ("r", "bob", True)]
    for place in (one, two):
        place.left("r", "alice")
    await one.until_members("r", {"alice": 1, "bob": 1})
    one.left("r", "alice")
    await two.until_members("r", {"bob": 1})
    assert events.read()[2:] == [("r", "alice", False)]


async def test_member_events_reach_the_hub_of_each_worker(redis: RedisServer, worker: Start) -> None:
    class Hub:
        def __init__(self) -> None:
            self.members: list[tuple[str, str, bool]] = []

        def on_member(self, room: str, user: str, joined: bool) -> None:
            self.members.append((room, user, joined))

        def delivered(self) -> dict[str, Delivered]:
            return {}

        def on_available(self) -> None: ...

        def on_message(self, message: Message) -> None: ...

    broker, hub = RedisBroker(RedisAddress(redis.url), LogLimits(1000, 2**30, 3600)), Hub()
    running = asyncio.create_task(broker.run(hub, print))
    await until(lambda: broker.available)
    room, user = "räum:{1}}", 'a"b\\ \n{/'
    await broker.subscribe(room)
    one = worker()
    one.entered(room, user)
    await until(lambda: hub.members)
    one.left(room, user)
    await until(lambda: len(hub.members) == 2)
    assert hub.members == [(room, user, True), (room, user, False)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_user_who_left_before_the_next_update_causes_no_event(worker: Start, events: MemberEvents) -> None:
    one = worker()
    one.entered("r", "alice")
    one.left("r", "alice")
    one.entered("r", "bob")
    await one.until_members("r", {"bob": 1})
    assert events.read() == [("r", "bob", True)]


async def test_a_user_who_reconnects_within_the_grace_causes_no_event(worker: Start, events: MemberEvents) -> None:
    one, two = worker(), worker()
    for user in ("elsewhere", "here", "gone"):
        one.entered("r", user)
    await one.flushed()
    for user in ("elsewhere", "here", "gone"):
        one.dropped("r", user)
    two.entered("r", "elsewhere")
    one.entered("r", "here")
    await two.flushed()
    await one.until_members("r", {"elsewhere": 2, "gone": 1, "here": 1})  # the dropped one still counts
    await one.until_members("r", {"elsewhere": 1, "here": 1})
    assert events.read()[3:] == [("r", "gone", False)]
    one.dropped("r", "here")  # again, and permanently
    await one.until_members("r", {"elsewhere": 1})


async def test_one_of_several_connections_that_drops_is_subtracted_at_once(worker: Start) -> None:
    one = worker(grace_s=3600)
    one.entered("r", "alice")
    one.entered("r", "alice")
    await one.flushed()
    one.dropped("r", "alice")
    await one.until_members("r", {"alice": 1})
    one.dropped("r", "alice")
    one.entered("r", "alice")
    one.left("r", "alice")
    await one.until_members("r", {})


async def test_the_members_of_a_killed_worker_are_subtracted_once(worker: Start, events: MemberEvents) -> None:
    dead, *living = [worker() for _ in range(4)]
    for n in range(3 * CHUNK):
        dead.entered("r", f"dead{n}")
        dead.entered(f"r{n}", "dead")
    for n in range(10):
        dead.entered("r", f"both{n}")
        living[n % 3].entered("r", f"both{n}")
    for place in (dead, *living):
        await place.flushed()
    before = len(events.read())
    reaped = metrics.TALLY_REAPED.labels("presence")
    reaped_before = reaped._value.get()
    await dead.pause()
    await living[0].until_members("r", {f"both{n}": 1 for n in range(10)})
    await until(lambda: len(events.read()) >= before + 6 * CHUNK)
    assert events.present() == {("r", f"both{n}") for n in range(10)}
    assert len(events.read()) == before + 6 * CHUNK
    for n in (0, 3 * CHUNK - 1):
        assert await living[0].members(f"r{n}") == {}
    assert reaped._value.get() == reaped_before + 6 * CHUNK + 10


async def test_a_worker_that_stops_hands_over_for_a_grace(
    redis: RedisServer, worker: Start, events: MemberEvents
) -> None:
    stopping, other = worker(lease_s=60), worker(grace_s=60)
    for user in ("moves", "stays", "left"):
        stopping.entered("r", user)
    await stopping.flushed()
    other.entered("s", "x")  # long enough for the other worker to be allowed to reap
    await asyncio.sleep(LEASE_S * 1.5)
    stopping.left("r", "left")
    stopping.dropped("r", "moves")
    stopped_at = asyncio.get_running_loop().time()
    await stopping.stopped()
    assert await other.members("r") == {"moves": 1, "stays": 1}
    other.entered("r", "moves")
    await other.until_members("r", {"moves": 1})
    assert asyncio.get_running_loop().time() - stopped_at >= GRACE_S * 0.9
    assert [event for event in events.read() if not event[2]] == [("r", "left", False), ("r", "stays", False)]


async def test_the_next_worker_reaps_the_share_of_the_only_worker(
    redis: RedisServer, worker: Start, events: MemberEvents
) -> None:
    first = worker()
    first.entered("r", "alice")
    await first.flushed()
    await first.pause()
    await worker().until_members("r", {})
    assert events.present() == set()
    left = {key.decode().rpartition(":")[2] for key in redis.client().keys("*")}
    assert left == {"leases"}


async def test_a_worker_that_was_given_up_sends_its_counts_again(worker: Start, events: MemberEvents) -> None:
    paused, other = worker(), worker()
    for n in range(CHUNK + 10):
        paused.entered("r", f"u{n}")
    paused.entered("r", "left")
    await paused.flushed()
    await paused.pause()
    paused.left("r", "left")
    await other.until_members("r", {})
    assert events.present() == set()
    given_up = metrics.TALLY_GIVEN_UP.labels("presence")
    given_up_before = given_up._value.get()
    paused.start()
    await other.until_members("r", {f"u{n}": 1 for n in range(CHUNK + 10)})
    assert events.present() == {("r", f"u{n}") for n in range(CHUNK + 10)}
    assert len(events.seen) == 3 * (CHUNK + 10) + 2
    assert given_up._value.get() == given_up_before + paused.store.shards
    paused.left("r", "u0")
    await other.until_members("r", {f"u{n}": 1 for n in range(1, CHUNK + 10)})


async def test_a_worker_that_comes_back_while_it_is_being_reaped(
    redis: RedisServer, worker: Start, events: MemberEvents
) -> None:
    paused, other = worker(), worker(lease_s=3600)
    users = {f"u{n}": 1 for n in range(3 * CHUNK)}
    for user in users:
        paused.entered("r", user)
    await paused.flushed()
    await paused.pause()
    await until_lapsed(redis, paused)
    shard = paused.store.shard_of("r")
    [dead] = [share.worker for share in paused._counts._shares if share.number == shard]
    [reaper] = [share.lease for share in other._counts._shares if share.number == shard]
    assert await other.store.reap([reaper], [dead], 3600) == [CHUNK]
    assert (await other.page("r", "", 1)).count == 2 * CHUNK
    paused.start()
    await paused.flushed()
    # Another reaper continues after an interrupted one: here the worker that came back.
    await other.until_members("r", users)
    assert events.present() == {("r", user) for user in users}
    gone = [event for event in events.read() if not event[2]]
    assert CHUNK <= len(gone) <= 3 * CHUNK


async def until_lapsed(redis: RedisServer, worker: Worker) -> None:
    client = redis.client()
    leases = [(worker.store.key(share.number, "leases"), share.worker) for share in worker._counts._shares]

    def lapsed() -> bool:
        seconds, microseconds = client.time()
        now_ms = seconds * 1000 + microseconds // 1000
        return all((client.zscore(key, name) or 0) < now_ms for key, name in leases)

    await until(lapsed)


async def test_a_delayed_reaper_does_nothing(redis: RedisServer, worker: Start) -> None:
    dead, reaper = worker(), worker()
    dead.entered("r", "alice")
    await dead.flushed()
    await reaper.flushed()
    await dead.pause()
    await reaper.pause()
    await until_lapsed(redis, dead)
    shard = dead.store.shard_of("r")
    own, other = reaper._counts._shares[shard].lease, dead._counts._shares[shard].worker
    assert await reaper.store.reap([own], [other], LEASE_S / 5) == [0]
    assert await reaper.members("r") == {"alice": 1}
    assert await reaper.store.reap([own], [other], 3600) == [1]


async def test_a_worker_that_renewed_in_the_last_moment_is_not_reaped(worker: Start) -> None:
    living, reaper = worker(), worker()
    living.entered("r", "alice")
    await living.flushed()
    await reaper.flushed()
    shard = living.store.shard_of("r")
    own, other = reaper._counts._shares[shard].lease, living._counts._shares[shard].worker
    assert await reaper.store.reap([own], [other], 3600) == [0]
    assert await reaper.members("r") == {"alice": 1}


async def test_a_paused_redis_makes_no_user_leave(redis: RedisServer, worker: Start, events: MemberEvents) -> None:
    quick, *others = [worker() for _ in range(3)]
    for n, place in enumerate((quick, *others)):
        place.entered("r", f"u{n}")
        await place.flushed()
    await asyncio.sleep(LEASE_S * 1.5)  # now all may reap
    redis.signal(signal.SIGSTOP)
    await others[1].pause()
    quick.entered("r", "new")
    quick.left("r", "u0")
    await asyncio.sleep(LEASE_S * 2.5)
    redis.signal(signal.SIGCONT)
    await quick.until_members("r", {"new": 1, "u1": 1, "u2": 1})
    await quick.flushed()  # this worker is back, and sees that the lease of a slower one has expired
    await asyncio.sleep(LEASE_S / 4)
    others[1].start()
    await asyncio.sleep(LEASE_S * 2)
    assert await quick.members("r") == {"new": 1, "u1": 1, "u2": 1}
    assert sorted(events.read()[3:]) == [("r", "new", True), ("r", "u0", False)]


async def test_a_killed_redis_makes_no_user_leave(redis: RedisServer, worker: Start) -> None:
    one, two = worker(), worker()
    one.entered("r", "alice")
    two.entered("r", "bob")
    await one.flushed()
    await two.flushed()
    redis.kill()
    with pytest.raises(BrokerUnavailable):
        await one.members("r")
    two.entered("r", "carol")
    one.entered("r", "alice")
    one.dropped("r", "alice")
    await asyncio.sleep(LEASE_S * 1.5)
    redis.start()
    events = MemberEvents(redis)
    await one.until_members("r", {"alice": 1, "bob": 1, "carol": 1})
    await asyncio.sleep(LEASE_S * 2)
    assert await one.members("r") == {"alice": 1, "bob": 1, "carol": 1}
    assert set(events.read()) <= {("r", "carol", True)}


async def test_a_redis_that_lost_its_data_gets_the_counts_again(redis: RedisServer, worker: Start) -> None:
    one, two = worker(), worker()
    one.entered("r", "alice")
    two.entered("r", "alice")
    await one.until_members("r", {"alice": 2})
    redis.client().flushall()
    await one.until_members("r", {"alice": 2})


async def test_a_redis_that_lost_its_tail_gets_the_counts_again(redis: RedisServer, worker: Start) -> None:
    one = worker()
    one.entered("r", "stays")
    one.entered("r", "goes")
    await one.flushed()
    await one.pause()
    size = redis.aof().stat().st_size
    one.start()
    one.entered("r", "comes")
    one.left("r", "goes")
    await one.flushed()
    await one.until_members("r", {"comes": 1, "stays": 1})
    await one.pause()
    redis.kill()
    with redis.aof().open("r+b") as aof:
        aof.truncate(size)
    redis.start()
    one.start()
    await one.until_members("r", {"comes": 1, "stays": 1})


async def test_a_late_command_changes_nothing(worker: Start) -> None:
    one = worker()
    one.entered("r", "alice")
    await one.flushed()
    shard = one.store.shard_of("r")
    await one.pause()
    old = one._counts._shares[shard].lease
    one.start()
    one.entered("r", "alice")
    await one.until_members("r", {"alice": 2})
    assert await one.store.update([Update(old, {"r alice": 7, "r bob": 1}, [])]) == [Updated(0, [])]
    assert await one.members("r") == {"alice": 2}


async def test_scripts_that_redis_forgot_are_loaded_again(redis: RedisServer, worker: Start) -> None:
    one = worker()
    one.entered("r", "alice")
    await one.until_members("r", {"alice": 1})
    redis.client().script_flush()
    one.entered("r", "bob")
    await one.until_members("r", {"alice": 1, "bob": 1})


async def test_a_full_redis_still_counts_members(redis: RedisServer, worker: Start) -> None:
    one = worker()
    await one.flushed()
    redis.client().config_set("maxmemory", 1)
    one.entered("r", "alice")
    await one.until_members("r", {"alice": 1})


async def test_the_keys_of_a_stopped_fleet_expire(redis: RedisServer, worker: Start) -> None:
    one = worker()
    one.entered("r", "alice")
    await one.flushed()
    await one.pause()
    client = redis.client()
    keys = {key.decode(): client.ttl(key) for key in client.keys("*")}
    shares = {key: ttl for key, ttl in keys.items() if ":share:" in key}
    shared = {key: ttl for key, ttl in keys.items() if ":share:" not in key}
    assert {key.rpartition(":")[2] for key in shared} == {"leases", "totals", "index"}
    assert len(shares) == 1
    assert all(0 < ttl <= 3600 for ttl in shared.values())
    # Else the counts of a dead worker could stay in totals that others keep alive.
    assert all(3600 < ttl <= 86400 for ttl in shares.values())


async def test_all_keys_of_a_room_are_in_its_shard(redis: RedisServer, worker: Start) -> None:
    one = worker()
    one.entered("r", "alice")
    await one.flushed()
    keys = [key.decode() for key in redis.client().keys("*")]
    shard = f"ws:1:{{{one.store.shard_of('r')}}}:"
    assert all(key.startswith("ws:1:{") for key in keys)
    assert all(key.startswith(shard) for key in keys if not key.endswith(":leases"))


HOSTILE = ["[", "(", "+", "-", "a b", "a  b ", '"', "\\", "\n", "a\nb", "é", "日本", "😀", "\x7f", "!", "z" * 128, "%s"]


async def test_names_may_hold_anything(worker: Start, events: MemberEvents) -> None:
    one = worker()
    rooms = ["r", "r!", "r(", "rr", "[r", "(r", "+", "-", '"', "é", "日本", "😀"]
    for room in rooms:
        for user in HOSTILE:
            one.entered(room, user)
    await one.flushed()
    for room in rooms:
        assert await one.members(room) == dict.fromkeys(HOSTILE, 1)
    for user in HOSTILE:  # each as the position of the next page
        following = sorted(other for other in HOSTILE if other > user)
        page = await one.page("r", user, 1)
        assert [member.user for member in page.members] == following[:1]
        assert page.more == (len(following) > 1)
    assert events.present() == {(room, user) for room in rooms for user in HOSTILE}
    for room in rooms:
        for user in HOSTILE:
            one.left(room, user)
    await one.flushed()
    assert events.present() == set()


async def test_ten_thousand_members_cost_no_more_each_than_ten(redis: RedisServer, worker: Start) -> None:
    one = worker()
    before = calls(redis)
    for n in range(10_000):
        one.entered("r", f"u{n:05}")
    await one.flushed()
    storm = calls(redis) - before
    assert 10_000 / CHUNK <= storm["evalsha"] < 10_000 / CHUNK + 16 * 60, "not in batches"  # and renewals
    assert storm["hincrby"] == storm["publish"] == 10_000
    assert (await one.page("r", "", 100)).count == 10_000
    before = calls(redis)
    page = await one.page("r", "u04999", 100)
    reading = calls(redis) - before
    assert [member.user for member in page.members] == [f"u{n:05}" for n in range(5000, 5100)]
    assert (page.count, page.more) == (10_000, True)
    assert (reading["zrangebylex"], reading["zlexcount"]) == (1, 1)
    assert reading["hget"] == 100
    await one.pause()  # no renewals between the counts
    await one._counts._renew()
    one.entered("r", "late")
    before = calls(redis)
    await one._counts._flush()
    assert sum((calls(redis) - before).values()) < 20, "one more member"
    last = await one.page("r", "u09998", 2)
    assert (last.members, last.count, last.more) == ([PresenceMember("u09999", 1)], 10_001, False)


async def test_no_script_changes_more_than_a_chunk(redis: RedisServer, worker: Start) -> None:
    """In the replication stream, each script is one transaction, which shows what it changed."""
    dead, other = worker(), worker()
    for n in range(4 * CHUNK):
        dead.entered("r", f"u{n:05}")
    await dead.flushed()
    await dead.pause()
    await other.until_members("r", {})
    longest = length = 0
    for word in redis.aof().read_bytes().split(b"\r\n"):
        if word == b"MULTI":
            length = 0
        elif word == b"HINCRBY":
            length += 1
            longest = max(longest, length)
    assert longest == CHUNK


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_a_page_says_whether_more_follow(worker: Start, limit: int) -> None:
    one = worker()
    for user in ("a", "b"):
        one.entered("r", user)
    await one.flushed()
    page = await one.page("r", "", limit)
    assert [member.user for member in page.members] == ["a", "b"][:limit]
    assert page.more == (limit < 2)
    assert page.count == 2
    assert await one.page("r", "b", limit) == PresencePage("r", [], 2, False)
    assert await one.page("none", "", limit) == PresencePage("none", [], 0, False)


async def test_presence_in_memory() -> None:
    events: list[tuple[str, str, bool]] = []
    presence = Presence(MemoryPresence(lambda *event: events.append(event)), grace_s=0.2)
    running = asyncio.create_task(presence.run())

    async def until_users(*users: str) -> PresencePage:
        page = await presence.page("r", "", 10)
        while [member.user for member in page.members] != list(users):
            await asyncio.sleep(0.01)
            page = await presence.page("r", "", 10)
        return page

    async with asyncio.timeout(30):
        for user in ("b", "a", "b"):
            presence.entered("r", user)
        page = await until_users("a", "b")
        assert page == PresencePage("r", [PresenceMember("a", 1), PresenceMember("b", 2)], 2, False)
        assert await presence.page("r", "a", 1) == PresencePage("r", [PresenceMember("b", 2)], 2, False)
        assert await presence.page("r", "", 1) == PresencePage("r", [PresenceMember("a", 1)], 2, True)
        presence.left("r", "b")
        presence.dropped("r", "a")
        presence.dropped("r", "b")
        presence.entered("r", "b")
        await until_users("b")
    assert sorted(events[:2]) == [("r", "a", True), ("r", "b", True)]
    assert events[2:] == [("r", "a", False)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await presence.stop()


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_a_user_sees_the_own_join_and_leave_at_once(kind: str, redis: RedisServer) -> None:
    store = MemoryPresence(lambda *_event: None) if kind == "memory" else RedisPresence(RedisAddress(redis.url))
    presence = Presence(store)
    running = asyncio.create_task(presence.run())
    await until(lambda: presence._counts.available)
    async with asyncio.timeout(30):
        for n in range(100):
            room = f"r{n}"
            presence.entered(room, "alice")
            assert await presence.page(room, "", 10, "alice") == PresencePage(
                room, [PresenceMember("alice", 1)], 1, False
            )
            presence.left(room, "alice")
            assert await presence.page(room, "", 10, "alice") == PresencePage(room, [], 0, False)
        # Many at once, more than one update takes.
        users = [f"u{n:03}" for n in range(2 * CHUNK)]
        for user in users:
            presence.entered("r", user)
        callers = users[::16]  # not all: each page has all users
        pages = await asyncio.gather(*(presence.page("r", "", 1000, user) for user in callers))
        for user, page in zip(callers, pages, strict=True):
            assert user in {member.user for member in page.members}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await presence.stop()


async def test_a_page_fails_while_the_callers_join_cannot_be_sent(redis: RedisServer, worker: Start) -> None:
    one = worker()
    await one.flushed()
    await one.pause()
    one.entered("r", "alice")
    with pytest.raises(BrokerUnavailable):
        await one.page("r", "", 10, "alice")
    assert (await one.page("r", "", 10, "bob")).count == 0
    one.start()
    await one.flushed()
    one.entered("r", "bob")
    redis.kill()
    with pytest.raises(BrokerUnavailable):
        await asyncio.wait_for(one.page("r", "", 10, "bob"), 10)
    redis.start()
    await one.until_members("r", {"alice": 1, "bob": 1})


# Random disturbances in any order, compared with a model.

_WORKERS = 3
_LEASE_S = 0.15
_ROOMS = ["r", "s"]
_USERS = ["u", "v w"]
_worker_number = st.integers(0, _WORKERS - 1)
_place = st.tuples(_worker_number, st.sampled_from(_ROOMS), st.sampled_from(_USERS))
_step = st.one_of(
    st.tuples(st.just("enter"), _place),
    st.tuples(st.just("enter"), _place),
    st.tuples(st.just("leave"), _place),
    st.tuples(st.sampled_from(["renew", "flush", "reap", "kill", "answer lost", "late"]), _worker_number),
    st.tuples(st.sampled_from(["lapse", "lose all"]), st.none()),
)


class _Fleet:
    """Workers that the test advances step by step."""

    def __init__(self, redis: RedisServer, events: MemberEvents) -> None:
        self._redis = redis
        self._events = events
        self._workers = [self._new() for _ in range(_WORKERS)]
        self._counts: dict[tuple[int, str, str], int] = {}
        self._late: list[tuple[Worker, list[Update]]] = []
        self._closed: list[Worker] = []

    def _new(self) -> Worker:
        return Worker(self._redis, lease_s=_LEASE_S)

    async def take(self, action: str, where: Any) -> None:
        match action:
            case "enter":
                number, room, user = where
                self._workers[number].entered(room, user)
                self._counts[where] = self._counts.get(where, 0) + 1
            case "leave" if self._counts.get(where):
                number, room, user = where
                self._workers[number].left(room, user)
                self._counts[where] -= 1
            case "lapse":
                await asyncio.sleep(_LEASE_S * 1.2)
            case "lose all":
                self._redis.client().flushall()
                for room, user in self._events.present():  # without a leave event
                    self._events.seen.append((room, user, False))
            case "kill":
                self._closed.append(self._workers[where])
                self._workers[where] = self._new()
                self._counts = {place: count for place, count in self._counts.items() if place[0] != where}
            case "renew" | "flush" | "reap":
                await self._do(self._workers[where], action)
            case "answer lost" | "late":
                await self._disturb(self._workers[where], late=action == "late")

    async def _do(self, worker: Worker, action: str) -> None:
        tally = worker._counts
        if action == "renew":
            await tally._renew()
        elif action == "flush" and any(share.waiting for share in tally._shares):
            await tally._flush()
        elif action == "reap":
            # Single renewals by hand seldom last for the length of a lease.
            reapers = [share for share in tally._shares if share.known and share.lapsed]
            if reapers:
                await tally._reap(reapers)

    async def _disturb(self, worker: Worker, late: bool) -> None:
        """An update without an answer. A late update is applied some time afterwards, or never."""
        update = worker.store.update

        async def disturbed(updates: list[Update]) -> list[Updated | None]:
            if late:
                self._late.append((worker, updates))
            else:
                await update(updates)
            raise BrokerUnavailable("the answer is lost")

        worker.store.update = disturbed  # type: ignore[method-assign]
        try:
            await self._do(worker, "flush")
        except BrokerUnavailable:
            worker._counts._on_store_lost()
        finally:
            worker.store.update = update  # type: ignore[method-assign]

    async def settle(self) -> None:
        """Let all workers continue until the totals are as without disturbances."""
        for worker in self._workers:
            await worker._counts._renew()  # workers that were not given up keep their names
        for worker, updates in self._late:
            await worker.store.update(updates)
        for worker in self._workers:
            worker.start()
        expected: dict[str, dict[str, int]] = {room: {} for room in _ROOMS}
        for (_number, room, user), count in self._counts.items():
            if count:
                expected[room][user] = expected[room].get(user, 0) + count
        for room in _ROOMS:
            await self._workers[0].until_members(room, expected[room])
        assert self._events.present() == {(room, user) for room in _ROOMS for user in expected[room]}

    async def close(self) -> None:
        for worker in self._workers:
            await worker.pause()
        for worker in (*self._workers, *self._closed):
            await worker.store.close()


def test_the_totals_are_right_after_any_disturbance(redis: RedisServer) -> None:
    @settings(max_examples=settings().max_examples // 8)
    @given(st.lists(_step, max_size=40))
    def explore(steps: list[tuple[str, Any]]) -> None:
        redis.client().flushall()
        asyncio.run(_carried_out(redis, steps))

    explore()


async def _carried_out(redis: RedisServer, steps: list[tuple[str, Any]]) -> None:
    fleet = _Fleet(redis, MemberEvents(redis))
    try:
        for action, where in steps:
            await fleet.take(action, where)
        await fleet.settle()
    finally:
        await fleet.close()
