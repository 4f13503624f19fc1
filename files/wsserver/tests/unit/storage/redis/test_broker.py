# SPDX-License-Identifier: MIT
"""The Redis broker and its scripts, against a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from support.archive import publishing
from support.members import calls
from support.redis_server import RedisServer
from support.wait import until

from wsserver.archive.history import History
from wsserver.errors import ArchiveUnavailable, BrokerBusy, BrokerError, BrokerFull, BrokerUnavailable, OutcomeUnknown
from wsserver.protocol.types import Message, Position
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.broker import Delivered
from wsserver.rooms.hub import Hub
from wsserver.runtime import pauses
from wsserver.storage.redis import broker as broker_redis
from wsserver.storage.redis.broker import RedisBroker
from wsserver.storage.redis.connection import RedisAddress, SoundConnection
from wsserver.storage.redis.keys import LogLimits, RoomKeys, archive_stream, life, shard_of
from wsserver.telemetry import metrics


class Heard:
    """Records what a worker's hub would get."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.members: list[tuple[str, str, bool]] = []
        self.control_payloads: list[bytes] = []
        self.delivered_rooms: dict[str, Delivered] = {}
        self.available = asyncio.Event()

    def on_message(self, message: Message) -> None:
        self.messages.append(message)

    def on_member(self, room: str, user: str, joined: bool) -> None:
        self.members.append((room, user, joined))

    def delivered(self) -> dict[str, Delivered]:
        return self.delivered_rooms

    def on_available(self) -> None:
        self.available.set()

    async def until(self, count: int) -> None:
        await until(lambda: len(self.messages) >= count)


@asynccontextmanager
async def connected(
    redis: RedisServer, log_length: int = 1000, log_bytes: int = 2**30
) -> AsyncIterator[tuple[RedisBroker, Heard]]:
    broker, heard = RedisBroker(RedisAddress(redis.url), LogLimits(log_length, log_bytes, 3600)), Heard()
    running = asyncio.create_task(broker.run(heard, heard.control_payloads.append))
    try:
        await asyncio.wait_for(heard.available.wait(), 20)
        yield broker, heard
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_publishes_are_logged_once_in_order_and_delivered(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        head = await broker.head("r")
        futures = [broker.publish("r", "u", str(n), b'{"n": %d}' % n) for n in range(500)]
        landed = [(await future).position for future in futures]
        assert landed == [Position(head.epoch, seq) for seq in range(1, 501)]
        await heard.until(500)
        assert [m.position for m in heard.messages] == landed
        assert [json.loads(m.data)["n"] for m in heard.messages] == list(range(500))
        assert await broker.head("r") == landed[-1]
        logged = await broker.read("r", head, 1000)
        assert logged == heard.messages


async def test_two_publishers_never_share_a_seq(redis: RedisServer) -> None:
    async with connected(redis) as (one, heard), connected(redis) as (two, _):
        await one.subscribe("r")
        futures = [
            broker.publish("r", name, str(n), b"1") for n in range(200) for name, broker in (("a", one), ("b", two))
        ]
        positions = [(await future).position for future in futures]
        assert sorted(p.seq for p in positions) == list(range(1, 401))
        await heard.until(400)
        assert [m.position.seq for m in heard.messages] == list(range(1, 401))


async def test_a_repeat_gets_the_first_answer_and_is_not_delivered_again(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        first = await broker.publish("r", "u", "same", b"1")
        again = await broker.publish("r", "u", "same", b"2")
        assert again == (first.position, True)
        others = [("r", "other", "same"), ("other", "u", "same"), ("r", "u", "other")]
        for room, user, id in others:
            assert not (await broker.publish(room, user, id, b"3")).repeat
        await heard.until(3)
        assert [m.position.seq for m in heard.messages] == [1, 2, 3]


async def test_data_user_and_id_pass_unchanged_whatever_they_hold(redis: RedisServer) -> None:
    data = b'{"text":"\xc3\xa9 \\n \\"","lines":[1,\n 2,\r\n3]}'
    user, room, id = 'a"b\\c:{x}\n', "räum:{1}}", "{}:\n\0"
    async with connected(redis) as (broker, heard):
        await broker.subscribe(room)
        await broker.publish(room, user, id, data)
        await heard.until(1)
        message = heard.messages[0]
        assert (message.room, message.user, message.data) == (room, user, data)
        assert await broker.read(room, Position(0, 0), 10) == [message]


async def test_all_keys_carry_their_shard_and_are_kept_for_a_time_only(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        await broker.publish("r", "u", "1", b"1")
    client = redis.client()
    keys = {key.decode(): client.ttl(key) for key in client.keys("*")}
    lives = {key for key in keys if key.endswith(":life")}
    assert lives == {f"ws:1:{{{shard}}}:life" for shard in range(16)}
    for key in lives:
        del keys[key]
    assert len(keys) == 3
    assert all(key.startswith("ws:1:{") for key in keys)
    assert len({key.partition("}")[0] for key in keys}) == 1
    assert all(0 < ttl <= 3600 for ttl in keys.values())


async def test_the_log_is_trimmed_to_about_its_bytes(redis: RedisServer) -> None:
    async with connected(redis, log_bytes=2**20) as (broker, _):
        # Small messages first: an average over the first messages would mislead.
        await asyncio.gather(*(broker.publish("r", "u", f"s{n}", b"1") for n in range(500)))
        for n in range(200):
            await broker.publish("r", "u", str(n), b'"%b"' % (b"x" * 20_000))
        head = await broker.head("r")
        client = redis.client()
        [log] = client.keys("*:log:r")
        assert client.memory_usage(log, samples=0) < 2.5 * 2**20
        [newest] = await broker.read_before("r", None, 1)
        assert newest.position == head
        assert client.xlen(log) > 30


async def test_the_log_keeps_a_message_that_is_larger_than_its_bytes(redis: RedisServer) -> None:
    async with connected(redis, log_bytes=2**18) as (broker, _):
        for n in range(32):
            published = await broker.publish("r", "u", str(n), b'"%b"' % (b"x" * 300_000))
            [newest] = await broker.read_before("r", None, 1)
            assert newest.position == published.position


async def test_a_room_without_messages_expires_soon(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        await broker.head("r")
        client = redis.client()
        [room] = client.keys("*:room:*")
        assert 0 < client.ttl(room) <= 60
        client.expire(room, 20)
        await broker.heads(["r"])  # a worker has members
        assert 50 < client.ttl(room) <= 60
        await broker.publish("r", "u", "1", b"1")
        assert all(3000 < client.ttl(key) <= 3600 for key in client.keys("*:r"))
        client.persist(client.keys("*:log:r")[0])  # as after a log that was deleted and begins again
        await broker.heads(["r"])
        assert all(3000 < client.ttl(key) <= 3600 for key in client.keys("*:r"))


async def test_the_heads_of_many_rooms_write_only_what_is_due(redis: RedisServer) -> None:
    rooms = [f"r{n}" for n in range(100)]
    async with connected(redis) as (broker, _):
        for room in rooms:
            await broker.publish(room, "u", "1", b"1")
        before = calls(redis)["expire"]
        assert [head.seq for head in await broker.heads([*rooms, "none"]) if head is not None] == [1] * 100
        assert (await broker.heads(["none", "r7"]))[0] is None
        assert calls(redis)["expire"] == before


async def test_the_log_is_trimmed_to_about_its_length(redis: RedisServer) -> None:
    async with connected(redis, log_length=100) as (broker, _):
        futures = [broker.publish("r", "u", str(n), b"1") for n in range(1000)]
        await asyncio.gather(*futures)
        head = await broker.head("r")
        kept = await broker.read("r", Position(0, 0), 10_000)
        assert 100 <= len(kept) <= 300
        assert [m.position.seq for m in kept] == list(range(1001 - len(kept), 1001))
        assert kept[-1].position == head


async def test_heads_of_many_rooms(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        landed = [(await broker.publish(f"r{n}", "u", "1", b"1")).position for n in range(3)]
        assert await broker.heads(["r0", "none", "r1", "r2"]) == [landed[0], None, landed[1], landed[2]]
        assert await broker.heads([]) == []


async def test_a_room_outlives_redis_under_always(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        before = [(await broker.publish("r", "u", str(n), b"1")).position for n in range(20)]
        heard.available.clear()
        redis.kill()
        await until(lambda: not broker.available)
        with pytest.raises(BrokerUnavailable):
            await broker.publish("r", "u", "20", b"1")
        with pytest.raises(BrokerUnavailable):
            await broker.head("r")
        with pytest.raises(BrokerUnavailable):
            await broker.subscribe("other")
        redis.start()
        await asyncio.wait_for(heard.available.wait(), 20)
        assert await broker.head("r") == before[-1]
        assert (await broker.publish("r", "u", "20", b"1")).position == before[-1].next()
        await until(lambda: heard.messages[-1].position == before[-1].next())


async def test_everything_acknowledged_is_there_after_kill_9_in_mid_traffic(redis: RedisServer) -> None:
    acknowledged: dict[str, Position] = {}
    refused = 0

    async with connected(redis, log_length=10_000) as (broker, _):

        async def publish(worker: int) -> None:
            nonlocal refused
            for n in range(400):
                id = f"{worker}-{n}"
                while id not in acknowledged:
                    try:
                        acknowledged[id] = (await broker.publish("r", "u", id, json.dumps(id).encode())).position
                    except OutcomeUnknown:
                        continue
                    except BrokerUnavailable:
                        refused += 1
                        await asyncio.sleep(0.02)

        publishers = [asyncio.create_task(publish(worker)) for worker in range(8)]
        for goal in (500, 1500):
            await until(lambda goal=goal: len(acknowledged) >= goal)
            redis.kill()
            redis.start()
        await asyncio.gather(*publishers)
        log: list[Message] = []
        while page := await broker.read("r", log[-1].position if log else Position(0, 0), 500):
            log += page
    assert refused
    assert {json.loads(m.data): m.position for m in log} == acknowledged
    head = log[-1].position
    assert [m.position for m in log] == [Position(head.epoch, seq) for seq in range(1, 3201)], "a repeat landed twice"


async def test_a_restart_under_everysec_begins_a_new_epoch() -> None:
    redis = RedisServer(fsync="everysec")
    redis.start()
    try:
        async with connected(redis) as (broker, heard):
            before = (await broker.publish("r", "u", "1", b"1")).position
            heard.available.clear()
            await asyncio.sleep(2.1)  # the data is on the disk by then, so a loss is not the reason
            redis.kill()
            redis.start()
            await asyncio.wait_for(heard.available.wait(), 20)
            after = await broker.head("r")
            assert after.epoch > before.epoch
            assert after.seq == 0
            assert (await broker.publish("r", "u", "2", b"1")).position == after.next()
            assert [m.position for m in await broker.read("r", Position(0, 0), 10)] == [before, after.next()]
            assert await broker.ends("r") == [before]
    finally:
        redis.remove()


async def test_a_log_that_lost_its_tail_is_renewed(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        positions = [(await broker.publish("r", "u", str(n), b"1")).position for n in range(3)]
        heard.available.clear()
        size = redis.aof().stat().st_size
        lost = (await broker.publish("r", "u", "3", b"1")).position
        broker._acknowledged.clear()  # as if another worker had published
        redis.cut(size)
        await asyncio.wait_for(heard.available.wait(), 20)
        assert await broker.head("r") == positions[-1]
        assert await broker.renew("r", positions[-1]) == positions[-1], "renewed without need"
        fresh = await broker.renew("r", lost)
        assert fresh.epoch > lost.epoch
        assert fresh.seq == 0
        assert await broker.renew("r", lost) == fresh, "renewed twice"
        again = (await broker.publish("r", "u", "3", b"1")).position
        assert again == fresh.next(), "the lost publish counts as a repeat"
        assert await broker.ends("r") == [lost], "its epoch did not end before a message that was delivered"
        await broker.renew("r", lost._replace(seq=7))
        await broker.renew("r", lost._replace(epoch=lost.epoch - 1))
        assert await broker.ends("r") == [lost._replace(seq=7)]


async def test_a_redis_that_is_older_than_what_a_worker_has_seen_gets_another_incarnation(redis: RedisServer) -> None:
    """A worker that delivered messages connects after one that knows of none, and that published
    meanwhile.
    """
    async with connected(redis) as (one, heard), connected(redis) as (two, other):
        await one.subscribe("r")
        before = (await two.publish("r", "u", "1", b"1")).position
        size = redis.aof().stat().st_size
        for n in range(2, 4):
            await two.publish("r", "u", str(n), b"1")
        await heard.until(3)
        two._acknowledged.clear()
        last = heard.messages[-1]
        heard.delivered_rooms = {"r": Delivered(last.position, last.ts)}
        late = asyncio.Event()
        connect = one._connect

        async def connect_later(*arguments: object) -> None:
            await late.wait()
            await connect(*arguments)  # type: ignore[arg-type]

        one._connect = connect_later  # type: ignore[method-assign]
        for each in (heard, other):
            each.available.clear()
        redis.cut(size)
        await asyncio.wait_for(other.available.wait(), 20)
        taken = [(await two.publish("r", "u", f"new {n}", b"1")).position for n in range(3)]
        assert taken[-1] > last.position, "it hides the loss"
        assert taken[0].epoch == before.epoch
        lost = metrics.BROKER_DATA_LOST._value.get()
        late.set()
        await asyncio.wait_for(heard.available.wait(), 20)
        assert metrics.BROKER_DATA_LOST._value.get() == lost + 1
        incarnations = one._incarnations
        assert sum(name != "aof" for name in incarnations) == 1
        async with asyncio.timeout(1):  # sooner than its next check
            await until(lambda: two._incarnations == incarnations)
        for broker in (two, one):
            after = (await broker.publish("r", "u", f"after {broker}", b"1")).position
            assert after.epoch > before.epoch
        assert after.seq == 2, "one epoch, not one for each worker"
        assert await one.ends("r") == [], "where it ended is not known"
        # The finding holds for good, and is made once.
        for each in (heard, other):
            each.available.clear()
        heard.delivered_rooms = {}
        redis.kill()
        redis.start()
        for each in (heard, other):
            await asyncio.wait_for(each.available.wait(), 20)
        assert one._incarnations == two._incarnations == incarnations
        assert metrics.BROKER_DATA_LOST._value.get() == lost + 1


async def test_a_worker_remembers_what_it_published(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_redis, "_ACKNOWLEDGED_ROOMS", 3)
    async with connected(redis) as (broker, heard):
        for room in "abc":
            await broker.publish(room, "u", "1", b"1")
        size = redis.aof().stat().st_size
        await broker.publish("a", "u", "2", b"1")
        await broker.publish("d", "u", "1", b"1")
        assert (await broker.publish("b", "u", "1", b"1")).repeat
        assert list(broker._acknowledged) == ["c", "a", "d"]
        before = [await broker.head(room) for room in "ad"]
        heard.available.clear()
        redis.cut(size)
        await asyncio.wait_for(heard.available.wait(), 20)
        for room, head in zip("ad", before, strict=True):
            assert (await broker.publish(room, "u", "3", b"1")).position.epoch > head.epoch


async def test_a_worker_that_is_behind_does_not_begin_epochs(redis: RedisServer) -> None:
    """The shard names its incarnation, to which a worker that does not know it yet adapts."""
    async with connected(redis) as (one, _), connected(redis) as (two, _):
        first = (await one.publish("r", "u", "1", b"1")).position
        two._incarnations = ["run id"] * 16
        assert (await two.publish("r", "u", "2", b"1")).position == first.next()
        assert await one.head("r") == first.next()


async def test_a_worker_that_is_behind_continues_no_epoch_of_older_data(redis: RedisServer) -> None:
    """Another worker has found that Redis came back older, and this one has yet to hear of it."""
    async with connected(redis) as (one, _), connected(redis) as (two, _):
        first = (await two.publish("r", "u", "1", b"1")).position
        [name] = redis.client().hmget(life(shard_of("r")), "name")
        redis.client().hset(life(shard_of("r")), "name", name + b"+found")
        second = (await two.publish("r", "u", "2", b"1")).position
        assert second.epoch > first.epoch
        assert (await one.publish("r", "u", "3", b"1")).position == second.next()


class Postgres:
    """A witness."""

    def __init__(self) -> None:
        self.marks: dict[int, str] = {}
        self.available = True

    async def newest(self, except_process: str) -> dict[int, str]:
        if not self.available:
            raise ArchiveUnavailable
        return self.marks


async def test_a_witness_that_is_unavailable_is_heard_later(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_redis, "_CHECK_INTERVAL_S", 0.05)
    witness = Postgres()
    witness.available = False
    async with publishing(redis, witness=witness) as broker:
        before = (await broker.publish("r", "u", "1", b"1")).position
        shard = shard_of("r")
        [(start, _fields)] = redis.client().xrange(archive_stream(shard))
        ms, _, number = start.decode().partition("-")
        # Before this start, Redis had less than Postgres has seen.
        witness.marks = {shard: f"{ms}-{int(number) + 5}", (shard + 1) % 16: "0-0"}
        witness.available = True
        await until(lambda: broker._incarnations[shard] != "aof")
        assert (await broker.publish("r", "u", "2", b"1")).position.epoch > before.epoch
        assert sum(name != "aof" for name in broker._incarnations) == 1
    # A later start finds nothing new.
    incarnations = broker._incarnations
    redis.kill()
    redis.start()
    async with publishing(redis, witness=witness) as broker:
        assert broker._incarnations == incarnations


async def test_a_room_knows_where_its_latest_epochs_ended(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        assert await broker.ends("r") == []
        expected = []
        for n in range(20):
            expected.append((await broker.publish("r", "u", str(n), b"1")).position)
            [room] = redis.client().keys("ws:1:*:room:r")
            redis.client().hset(room, "life", "another")
            await broker.head("r")
        assert sorted(await broker.ends("r")) == expected[-16:]


async def test_a_redis_without_its_replicas_cannot_accept_now(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        redis.client().config_set("min-replicas-to-write", 1)
        with pytest.raises(BrokerUnavailable, match="cannot accept the publish now; nothing was published"):
            await broker.publish("r", "u", "1", b"1")
        redis.client().config_set("min-replicas-to-write", 0)
        assert not (await broker.publish("r", "u", "1", b"1")).repeat


async def test_an_expired_room_begins_a_later_epoch(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        before = (await broker.publish("r", "u", "1", b"1")).position
        redis.client().flushall()
        assert await broker.heads(["r"]) == [None]
        after = await broker.head("r")
        assert after.epoch > before.epoch


async def test_a_stream_that_outlived_its_hash_is_continued(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        before = (await broker.publish("r", "u", "1", b"1")).position
        client = redis.client()
        [room] = client.keys("ws:1:*:room:r")
        client.delete(room)
        after = (await broker.publish("r", "u", "2", b"1")).position
        assert after.epoch > before.epoch
        assert [m.position for m in await broker.read("r", Position(0, 0), 10)] == [before, after]


async def test_a_full_redis_refuses_and_drops_nothing(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        before = (await broker.publish("r", "u", "1", b"1")).position
        client = redis.client()
        client.config_set("maxmemory", 1)
        with pytest.raises(BrokerFull, match="nothing was published"):
            await broker.publish("r", "u", "2", b"1")
        assert await broker.publish("r", "u", "1", b"1") == (before, True), "a repeat needs no memory"
        assert await broker.head("r") == before
        with pytest.raises(BrokerFull, match="out of memory"):
            await broker.head("new")
        client.config_set("maxmemory", 0)
        assert (await broker.publish("r", "u", "2", b"1")).position == before.next()
        await heard.until(2)


async def test_a_paused_redis_is_noticed_and_used_again_when_it_resumes(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        heard.available.clear()
        redis.signal(signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown):
                await asyncio.wait_for(broker.publish("r", "u", "1", b"1"), 15)
            await until(lambda: not broker.available)
            with pytest.raises(BrokerUnavailable):
                await asyncio.wait_for(broker.publish("r", "u", "2", b"1"), 0.2)
        finally:
            redis.signal(signal.SIGCONT)
        await asyncio.wait_for(heard.available.wait(), 20)
        # The publish that was in flight when Redis stopped may be in the log: repeat it to find
        # out.
        settled = await broker.publish("r", "u", "1", b"1")
        assert settled.position.seq == 1


async def test_a_stopped_redis_is_noticed_without_traffic(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        heard.available.clear()
        redis.signal(signal.SIGSTOP)
        try:
            await until(lambda: not broker.available)
        finally:
            redis.signal(signal.SIGCONT)
        await asyncio.wait_for(heard.available.wait(), 20)


async def test_the_live_feed_alone_is_cut_and_comes_back_with_its_rooms(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        for room in ("r", "s"):
            await broker.subscribe(room)
        heard.available.clear()
        assert redis.client().client_kill_filter(_type="pubsub") == 1
        await asyncio.wait_for(heard.available.wait(), 20)
        for room in ("r", "s"):
            await broker.publish(room, "u", "1", b"1")
        await heard.until(2)


async def test_connections_that_break_are_no_full_disk(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        for _ in range(5):
            heard.available.clear()
            broker._disk.writing().__enter__()  # the answer to a publish was lost with the connection
            redis.client().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.wait_for(heard.available.wait(), 20)
            assert not broker.disk_full


@pytest.mark.parametrize("payload", [b'{"member":1}', b'{"member":"', b"{}\n1", b"\xff"])
async def test_what_no_worker_can_read_harms_no_other_message(redis: RedisServer, payload: bytes) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        heard.available.clear()
        redis.client().publish(RoomKeys("r").channel, payload)
        await broker.publish("r", "u", "1", b"1")
        await heard.until(1)
        assert not heard.available.is_set(), "the connection has stayed"


async def test_scripts_that_redis_forgot_are_loaded_again(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        await broker.publish("r", "u", "1", b"1")
        heard.available.clear()
        redis.client().script_flush()
        assert (await broker.head("r")).seq == 1
        with pytest.raises(BrokerUnavailable):
            await broker.publish("r", "u", "2", b"1")
        await asyncio.wait_for(heard.available.wait(), 20)
        assert (await broker.publish("r", "u", "2", b"1")).position.seq == 2


async def test_publishes_of_several_users_keep_the_order_of_the_calls(redis: RedisServer) -> None:
    """A batch of the server API has messages from several users."""
    async with connected(redis) as (broker, _):
        users = ["alice"] * 300 + ["bob"] + ["alice"] * 20 + ["carol"]
        futures = [broker.publish("r", user, str(n), b"1") for n, user in enumerate(users)]
        assert [(await future).position.seq for future in futures] == list(range(1, len(users) + 1))


async def test_other_work_goes_on_while_many_messages_arrive(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        taken = 0
        take = heard.on_message

        def take_long(message: Message) -> None:
            nonlocal taken
            taken += 1
            time.sleep(0.002)
            take(message)

        monkeypatch.setattr(heard, "on_message", take_long)
        client = redis.client().pipeline()
        for n in range(200):
            client.publish(RoomKeys("r").channel, f'{{"epoch":1,"seq":{n + 1},"from":"u","ts":1}}\n1'.encode())
        client.execute()
        most, before = 0, taken
        while taken < 200:
            await asyncio.sleep(0)
            most, before = max(most, taken - before), taken
        assert most < 20, "messages in one turn of the event loop"


async def test_the_checks_go_on_while_a_room_is_subscribed(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        client = redis.client()
        pings = client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]

        def pinged() -> bool:
            return bool(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"] >= pings + 2)

        await until(pinged)
        await broker.publish("r", "u", "1", b"1")
        await heard.until(1)


async def test_messages_of_unsubscribed_rooms_are_not_received(redis: RedisServer) -> None:
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        await broker.unsubscribe("r")
        await broker.publish("r", "u", "1", b"1")
        await broker.subscribe("r")
        await broker.publish("r", "u", "2", b"1")
        await heard.until(1)
        assert [m.position.seq for m in heard.messages] == [2]
        await broker.unsubscribe("r")
        await until(lambda: redis.client().pubsub_channels() == [b"ws:1:orders"])


async def test_a_burst_of_reads_is_served_without_an_error(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        await broker.publish("r", "u", "1", b"1")
        heads = await asyncio.gather(*(broker.head(f"r{n}") for n in range(500)))
        assert len(heads) == 500
        assert broker.available


async def test_a_full_pool_of_connections_is_busy_and_no_outage(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsserver.storage.redis.connection._READ_WAIT_S", 0.2)
    async with connected(redis) as (broker, _):
        hub = Hub(broker, History(broker, None), BatchWriter())
        limited = metrics.LIMITED.labels("broker_reads")
        before = limited._value.get()
        await broker.read("r", Position(0, 0), 10)
        redis.signal(signal.SIGSTOP)
        try:
            held = [asyncio.create_task(broker.read("r", Position(0, 0), 10)) for _ in range(8)]
            await asyncio.sleep(0)
            with pytest.raises(BrokerBusy):
                await broker.read("r", Position(0, 0), 10)
        finally:
            redis.signal(signal.SIGCONT)
        assert [await each for each in held] == [[]] * 8
        assert limited._value.get() == before + 1
        assert broker.available

        async def busy(room: str) -> Position:
            raise BrokerBusy

        monkeypatch.setattr(broker, "head", busy)
        with pytest.raises(BrokerBusy):
            await hub.join(cast(Any, None), "r", None)


async def test_publishes_that_wait_for_a_slow_redis_are_bounded_in_all(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        limited = metrics.LIMITED.labels("broker_queue")
        before = limited._value.get()
        redis.signal(signal.SIGSTOP)
        try:
            data = b'"' + b"x" * 2**20 + b'"'
            futures = [broker.publish("r", "u", str(n), data) for n in range(50)]
            refused = [future for future in futures if future.done()]
            assert len(futures) - len(refused) == 32
            with pytest.raises(BrokerBusy, match="nothing was published"):
                await refused[0]
            tiny = [broker.publish("r", "u", f"tiny {n}", b"1") for n in range(10)]
            assert all(future.done() for future in tiny)
        finally:
            redis.signal(signal.SIGCONT)
        outcomes = await asyncio.gather(*futures, *tiny, return_exceptions=True)
        assert sum(isinstance(outcome, BrokerError) for outcome in outcomes) == 18 + 10
        assert limited._value.get() == before + 28
        assert (await broker.publish("r", "u", "after", b"1")).position.seq == 33
        assert broker._waiting_bytes == 0
        assert broker.available


async def test_publishes_from_before_a_pause_are_refused(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(pauses, "_now", lambda: now)
    async with connected(redis) as (broker, _):
        assert (await broker.publish("r", "u", "1", b"1")).position.seq == 1
        redis.signal(signal.SIGSTOP)
        under_way = broker.publish("r", "u", "2", b"1")
        await asyncio.sleep(0.1)  # it is sent, and the next ones wait
        queued = [broker.publish("r", "u", str(n), b"1") for n in (3, 4)]
        now += 100
        redis.signal(signal.SIGCONT)
        assert (await under_way).position.seq == 2, "Redis had it before the pause"
        for future in (*queued, broker.publish("r", "u", "5", b"1")):
            with pytest.raises(BrokerUnavailable, match="stood still"):
                await future
        now += 5
        assert (await broker.publish("r", "u", "6", b"1")).position.seq == 3
        assert broker._waiting_bytes == 0


async def test_a_cancellation_at_any_moment_ends_it(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Before Python 3.12, a write to Redis that ended at the same moment swallowed a cancellation,
    # and a worker that had to stop ran on. In this test a write is nearly always in progress.
    monkeypatch.setattr(broker_redis, "_CHECK_INTERVAL_S", 0.001)

    async def cancelled(broker: RedisBroker, after_s: float) -> None:
        running = asyncio.create_task(broker.run(Heard(), print))
        await until(lambda: broker.available)
        await asyncio.sleep(after_s)
        running.cancel()
        _done, going_on = await asyncio.wait([running], timeout=20)
        assert not going_on

    for _repeat in range(5):
        brokers = [RedisBroker(RedisAddress(redis.url), LogLimits(1000, 2**30, 3600)) for _ in range(20)]
        await asyncio.gather(*(cancelled(broker, n / 1000) for n, broker in enumerate(brokers)))


async def test_a_connection_that_broke_while_idle_reconnects(redis: RedisServer) -> None:
    clients: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer)
        up_reader, up_writer = await asyncio.open_unix_connection(redis.url.removeprefix("unix://"))

        async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    to.write(data)
            to.transport.abort()

        await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))

    async def broken(connection: SoundConnection, client: asyncio.StreamWriter) -> None:
        """Break a connection with a reset, not with a FIN."""
        client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.transport.abort()
        await until(connection._writer.is_closing)

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        client = RedisAddress(f"redis://{host}:{port}").client(1)
        assert await client.ping()
        [connection] = clients
        [idle] = client.connection_pool._available_connections
        await broken(idle, connection)
        assert await client.ping()
        assert len(clients) == 2
        # An error is better than a feed without subscriptions, or a publish with the incarnation of
        # an earlier Redis.
        dedicated = client.connection_pool.make_connection()
        dedicated.dedicated = True
        await dedicated.connect()
        await broken(dedicated, clients[-1])
        with pytest.raises(RedisConnectionError):
            await dedicated.send_command("PING")
        assert len(clients) == 3
        await client.aclose()


# With an archive.


def archive_entries(redis: RedisServer) -> list[tuple[str, bytes]]:
    """Room and envelope of all messages that wait for Postgres, by shard."""
    client = redis.client()
    streams = [client.xrange(f"ws:1:{{{shard}}}:archive") for shard in range(16)]
    return [(fields[b"r"].decode(), fields[b"m"]) for stream in streams for _id, fields in stream]  # type: ignore[union-attr]


async def test_a_publish_goes_to_the_archive_once(redis: RedisServer) -> None:
    async with publishing(redis) as broker:
        for n in (0, 1, 1, 2):
            await broker.publish("r", "u", str(n), b"%d" % n)
        assert [(room, envelope[-2:]) for room, envelope in archive_entries(redis)] == [
            ("r", b"\n0"),
            ("r", b"\n1"),
            ("r", b"\n2"),
        ]
        client = redis.client()
        client.config_set("maxmemory", 1)
        with pytest.raises(BrokerFull):
            await broker.publish("r", "u", "3", b"3")
        assert len(archive_entries(redis)) == 3
        assert (await broker.head("r")).seq == 3
        [stream] = client.keys("ws:1:*:archive")
        assert client.ttl(stream) == -1, "it would be lost unarchived"


async def test_without_an_archive_the_stream_stays_empty(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        await broker.publish("r", "u", "1", b"1")
        assert archive_entries(redis) == []


async def test_a_log_is_trimmed_to_what_is_not_archived(redis: RedisServer) -> None:
    async with publishing(redis, log_length=100) as broker:
        await asyncio.gather(*(broker.publish("r", "u", str(n), b"1") for n in range(1000)))
        client, epoch = redis.client(), (await broker.head("r")).epoch
        [room], [log] = client.keys("ws:1:*:room:r"), client.keys("ws:1:*:log:r")
        assert client.xlen(log) == 1000
        for archived, kept in ((f"{epoch}-400", 600), (f"{epoch - 1}-5000", 601), (f"{epoch}-950", 102)):
            client.hset(room, "archived", archived)
            position = (await broker.publish("r", "u", archived, b"1")).position
            assert kept <= client.xlen(log) <= kept + 101, archived
            read = await broker.read("r", Position(0, 0), 10_000)
            assert [m.position.seq for m in read] == list(range(position.seq + 1 - len(read), position.seq + 1))


async def test_reading_backwards(redis: RedisServer) -> None:
    async with connected(redis) as (broker, _):
        assert await broker.read_before("r", None, 10) == []
        landed = [(await broker.publish("r", "u", str(n), b"1")).position for n in range(10)]
        assert [m.position for m in await broker.read_before("r", None, 3)] == landed[-3:]
        assert [m.position for m in await broker.read_before("r", landed[5], 3)] == landed[2:5]
        assert [m.position for m in await broker.read_before("r", landed[1], 3)] == landed[:1]
        assert await broker.read_before("r", landed[0], 3) == []


async def test_an_unexpected_cancellation_is_a_lost_connection(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout of the client library may leave a cancellation behind. The broker reconnects."""
    async with connected(redis) as (broker, heard):
        heard.available.clear()

        async def cancelled() -> str:
            raise asyncio.CancelledError

        with monkeypatch.context() as patched:
            patched.setattr(broker_redis, "_CHECK_INTERVAL_S", 0)
            patched.setattr(broker, "_check", cancelled)
            patched.setattr(broker, "_send_publishes", cancelled)
            patched.setattr(broker, "_connect", lambda *_arguments: cancelled())
            assert broker._publisher is not None
            await broker._publisher.disconnect(nowait=True)
            assert broker._feed is not None
            await broker._feed.disconnect(nowait=True)
            await until(lambda: not broker.available)
            await asyncio.sleep(0.2)  # some attempts
        await asyncio.wait_for(heard.available.wait(), 20)


@pytest.mark.parametrize("work", ["publishes", "feed", "checks"])
async def test_a_cancelled_part_of_a_connection_ends_the_connection(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    monkeypatch.setattr(broker_redis, "_CHECK_INTERVAL_S", 0.1)
    async with connected(redis) as (broker, heard):
        await broker.subscribe("r")
        heard.available.clear()
        happened = asyncio.Event()

        async def cancelled(*_arguments: object, **_options: object) -> None:
            happened.set()
            raise asyncio.CancelledError

        assert broker._publisher is not None
        assert broker._feed is not None
        with monkeypatch.context() as patched:
            match work:
                case "publishes":
                    patched.setattr(broker._publisher, "send_packed_command", cancelled)
                case "feed":
                    patched.setattr(broker._feed, "read_response", cancelled)
                case "checks":
                    patched.setattr(broker._control, "info", cancelled)
            with suppress(BrokerError):  # its outcome may be unknown
                await asyncio.wait_for(broker.publish("r", "u", "1", b"1"), 20)
            await asyncio.wait_for(happened.wait(), 20)
        await asyncio.wait_for(heard.available.wait(), 20)
        await broker.publish("r", "u", "2", b"1")
