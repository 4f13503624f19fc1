# SPDX-License-Identifier: MIT
"""The promise, with a broker that has every fault that a broker may have.

Each member of a room sees every position once and in order, with a `gap` only where messages exist
neither in the log nor in the archive, and a `reset` only into a new epoch, after all that exists of
the old one. Hypothesis chooses the steps and their order,
and shrinks a failure to a few steps.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.broker import UnreliableArchive, UnreliableBroker
from support.clock import JumpingLoop
from support.services import make_services
from support.wire import server_frames

from wsserver.archive.history import History
from wsserver.auth import EVERYWHERE, Identity
from wsserver.protocol.events import PresenceMember
from wsserver.protocol.json_codec import JsonCodec
from wsserver.protocol.types import Position
from wsserver.rooms import hub as hub_module
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.hub import Hub
from wsserver.sessions.session import Session
from wsserver.telemetry import metrics

ROOMS = ("r1", "r2")
CLIENTS = 4
BUFFER = 600  # bytes, about five messages


class Client:
    """A session whose socket is a bounded buffer, and a reader that checks every event."""

    def __init__(self, hub: Hub, broker: UnreliableBroker, writer: BatchWriter, codec: JsonCodec) -> None:
        self.broker = broker
        self.reading = True
        self.buffer = bytearray()
        self.at: dict[str, Position] = {}
        self.last: dict[str, Position] = {}
        self.waiting: dict[str, list[Position | None]] = {room: [] for room in ROOMS}
        self.joins: list[tuple[Position, bool]] = []
        self.heard: list[Position] = []
        self.resets: list[Position] = []
        self.gaps: list[tuple[int, int]] = []
        identity = Identity("c", 2e9, EVERYWHERE, EVERYWHERE)
        services = make_services(hub, broker, writer)
        self.presence = services.presence
        self.session = Session(identity, codec, self, services)

    # ClientTransport, for the session.

    def write(self, data: bytes) -> None:
        frames = server_frames(data)
        if self.session.paused:
            events = [frame.event["type"] for frame in frames]
            assert "message" not in events, "delivered to a client whose buffer is full"
        self.buffer += data
        if not self.reading and not self.session.paused and len(self.buffer) > BUFFER:
            self.session.pause()
        self.read()

    def hold_reading(self, hold: bool) -> None:
        self.held = hold

    def throttle(self) -> None:
        raise AssertionError("no limit is near")

    # The client's side.

    def send(self, **command: Any) -> None:
        self.session.receive(json.dumps(command).encode())

    def join(self, room: str, since: Position | None) -> None:
        self.waiting[room].append(since)
        resume = {"epoch": str(since.epoch), "seq": since.seq} if since else None
        self.send(type="join", room=room, since=resume)

    def set_reading(self, reading: bool) -> None:
        self.reading = reading
        self.read()

    def read(self) -> None:
        if self.reading:
            data, self.buffer = bytes(self.buffer), bytearray()
            for frame in server_frames(data):
                self.on_event(frame.event)
            if self.session.paused:
                self.session.resume()

    def on_event(self, event: dict[str, Any]) -> None:
        room = event.get("room", "")
        match event["type"]:
            case "joined":
                self.on_joined(room, self.waiting[room].pop(0), Position(int(event["epoch"]), event["seq"]), event)
            case "message":
                position = self.at[room].next()
                assert (event["epoch"], event["seq"]) == (str(position.epoch), position.seq), f"after {self.at[room]}"
                assert event["data"] == f"{position.epoch}-{position.seq}"
                assert (room, position) in self.broker.published
                self.at[room] = self.last[room] = position
                self.heard.append(position)
            case "gap":
                at = self.at[room]
                assert event["from"] == at.seq + 1
                assert event["to"] >= event["from"]
                for seq in range(event["from"], event["to"] + 1):
                    assert not self.broker.reaches(room, Position(at.epoch, seq)), "a gap that could be filled"
                    assert (room, Position(at.epoch, seq)) in self.broker.published, "a gap of nothing"
                self.at[room] = self.last[room] = Position(at.epoch, event["to"])
                self.gaps.append((event["from"], event["to"]))
            case "reset":
                at, new = self.at[room], Position(int(event["epoch"]), event["seq"])
                assert new.epoch > at.epoch
                assert new.seq == 0
                between = [p for r, p in self.broker.published if r == room and at < p < new]
                assert not any(self.broker.reaches(room, p) for p in between), "a reset past messages that exist"
                self.at[room] = self.last[room] = new
                self.resets.append(new)
            case "left":
                self.at.pop(room, None)
            case "error":
                assert event["code"] == "unavailable"
                self.waiting[room].pop(0)
                self.at.pop(room, None)
            case other:
                raise AssertionError(other)

    def on_joined(self, room: str, since: Position | None, start: Position, event: dict[str, Any]) -> None:
        head = self.broker.head_now(room)
        self.joins.append((start, event["recovered"]))
        if event["recovered"]:
            assert start == since
        elif since is not None and head is not None and (room, since) in self.broker.published:
            skipped = [p for r, p in self.broker.published if r == room and since < p <= start]
            assert not any(self.broker.reaches(room, p) for p in skipped), "not told what exists"
            lost_after = self.broker.logs[room].sealed  # the messages after `since` are lost, which no worker knows yet
            assert lost_after or not self.broker.reaches(room, since.next()), "not recovered, though nothing is lost"
            assert since != head or lost_after, "not recovered at the head"
        self.at[room] = self.last[room] = start


clients = st.integers(0, CLIENTS - 1)
rooms = st.sampled_from(ROOMS)
fates = st.sampled_from(["deliver", "deliver", "deliver", "drop", "repeat", "delay"])


class HubMachine(RuleBasedStateMachine):
    archived = False

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(hub_module, "_IDLE_ROOM_S", -1.0)  # drop a room in the first check that finds it empty
        self.loop = JumpingLoop()
        self.failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context))
        self.archive = UnreliableArchive()
        self.broker = UnreliableBroker(self.archive if self.archived else None)
        self.writer = BatchWriter()
        self.hub = Hub(self.broker, History(self.broker, self.broker.archive), self.writer)
        self.broker.listen(self.hub)
        self.codecs = [JsonCodec(), JsonCodec()]
        self.clients = [self.new_client(index) for index in range(CLIENTS)]
        self.checking: list[asyncio.Task[None]] = []

    def new_client(self, index: int) -> Client:
        return Client(self.hub, self.broker, self.writer, self.codecs[index % 2])

    def run(self, seconds: float = 0.0, turns: int = 0) -> None:
        async def pass_time() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            if seconds:
                await asyncio.sleep(seconds)

        self.loop.run_until_complete(pass_time())

    def now(self, act: Any) -> None:
        """Call `act` inside the event loop, where sessions and hub run."""

        async def inside() -> None:
            act()

        self.loop.run_until_complete(inside())

    # Broker and time.

    @initialize()
    def all_clients_join(self) -> None:
        for client in self.clients:
            for room in ROOMS:
                self.now(partial(client.join, room, None))
        self.run(seconds=0.1)

    @rule(room=rooms, fates=st.lists(fates, min_size=1, max_size=8), turns=st.integers(0, 3))
    def traffic(self, room: str, fates: list[str], turns: int) -> None:
        for fate in fates:
            self.broker.publish_now(room)
            self.now(partial(self.broker.deliver, fate))
            self.run(turns=turns)

    @rule(room=rooms, count=st.integers(1, 8))
    def publish(self, room: str, count: int) -> None:
        for _ in range(count):
            self.broker.publish_now(room)

    @rule(fates=st.lists(fates, min_size=1, max_size=8))
    def feed(self, fates: list[str]) -> None:
        self.now(lambda: [self.broker.deliver(fate) for fate in fates])

    @rule(turns=st.integers(1, 6))
    def a_few_turns(self, turns: int) -> None:
        self.run(turns=turns)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(seconds=seconds)

    @rule(room=rooms, keep=st.integers(0, 3))
    def trim(self, room: str, keep: int) -> None:
        self.broker.trim(room, keep)

    @rule(room=rooms)
    def expire(self, room: str) -> None:
        self.broker.expire(room)

    @rule(room=rooms)
    def begin_life(self, room: str) -> None:
        self.broker.begin_life(room)

    @rule(room=rooms, count=st.integers(1, 3), noticed=st.booleans())
    def lose_tail(self, room: str, count: int, noticed: bool) -> None:
        self.broker.lose_tail(room, count, noticed)

    @rule(delay_s=st.sampled_from([0.0, 0.0, 0.05, 0.3, 2.0]))
    def reads_take(self, delay_s: float) -> None:
        self.broker.read_delay_s = delay_s

    @rule(count=st.integers(1, 3))
    def reads_fail(self, count: int) -> None:
        self.broker.failing_reads = count

    @precondition(lambda self: self.broker.available)
    @rule(reads_too=st.booleans())
    def disconnect(self, reads_too: bool) -> None:
        self.broker.disconnect(reads_too)

    @rule()
    def connect(self) -> None:
        self.now(self.broker.connect)

    @rule()
    def check(self) -> None:
        self.checking.append(self.loop.create_task(self.hub.check()))

    # Clients.

    @rule(client=clients, room=rooms, since=st.sampled_from(["none", "last", "last", "older", "odd"]))
    def join(self, client: int, room: str, since: str) -> None:
        one = self.clients[client]
        last = one.last.get(room)
        position = None
        if last is not None and since != "none":
            position = {
                "last": last,
                "older": Position(last.epoch, max(0, last.seq - 2)),
                "odd": Position(last.epoch + 1, last.seq + 7),
            }[since]
        self.now(lambda: one.join(room, position))

    @rule(client=clients, room=rooms)
    def leave(self, client: int, room: str) -> None:
        self.now(lambda: self.clients[client].send(type="leave", room=room))

    @rule(client=clients, reading=st.booleans())
    def reading(self, client: int, reading: bool) -> None:
        self.now(lambda: self.clients[client].set_reading(reading))

    @rule(client=clients)
    def reconnect(self, client: int) -> None:
        """Disconnect, and reconnect with the last known position."""
        old = self.clients[client]
        self.now(old.session.close)
        new = self.clients[client] = self.new_client(client)
        new.last = dict(old.last)
        for room, position in new.last.items():
            self.now(partial(new.join, room, position))

    # Checks.

    @invariant()
    def no_task_has_failed(self) -> None:
        assert not self.failures
        for task in self.checking:
            if task.done():
                task.result()

    def teardown(self) -> None:
        try:
            if not self.failures:
                self.heal()
                self.all_clients_are_at_the_head()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.run(turns=3)
            self.loop.close()
            self.patch.undo()

    def heal(self) -> None:
        self.broker.read_delay_s = 0.0
        self.broker.failing_reads = 0
        self.archive.available = True
        self.archive.read_delay_s = 0.0
        self.now(self.broker.connect)
        self.now(lambda: [client.set_reading(True) for client in self.clients])
        for _ in range(2):
            self.run(seconds=10)
            self.loop.run_until_complete(self.hub.check())
        self.run(seconds=10)

    def all_clients_are_at_the_head(self) -> None:
        self.no_task_has_failed()
        for client in self.clients:
            assert not any(client.waiting.values()), "a join without an answer"
            for room, position in client.at.items():
                assert position == self.broker.head_now(room), f"left behind in {room}"


class ArchivedHubMachine(HubMachine):
    """As above, with an archive behind the logs."""

    archived = True

    @rule(room=rooms)
    def move(self, room: str) -> None:
        self.broker.move(room)

    @rule(room=rooms, count=st.integers(1, 5))
    def forget(self, room: str, count: int) -> None:
        self.archive.forget(room, count)

    @rule(available=st.booleans())
    def archive_is(self, available: bool) -> None:
        self.archive.available = available

    @rule(delay_s=st.sampled_from([0.0, 0.0, 0.05, 2.0]))
    def archive_takes(self, delay_s: float) -> None:
        self.archive.read_delay_s = delay_s


TestHub = HubMachine.TestCase
TestArchivedHub = ArchivedHubMachine.TestCase


class Scene:
    """A hub with clients, and single steps for the tests below."""

    def __init__(self) -> None:
        self.archive = UnreliableArchive()
        self.broker = UnreliableBroker(self.archive)
        self.writer = BatchWriter()
        self.hub = Hub(self.broker, History(self.broker, self.archive), self.writer)
        self.broker.listen(self.hub)
        self.codec = JsonCodec()

    def client(self) -> Client:
        return Client(self.hub, self.broker, self.writer, self.codec)

    async def joined(self, since: Position | None = None) -> Client:
        client = self.client()
        client.join("r1", since)
        await asyncio.sleep(0.1)
        assert "r1" in client.at
        return client

    def traffic(self, *fates: str) -> None:
        for fate in fates:
            self.broker.publish_now("r1")
            self.broker.deliver(fate)

    async def join_and_hear(self, client: Client) -> None:
        client.join("r1", None)
        await asyncio.sleep(0.1)
        self.traffic("deliver")
        await asyncio.sleep(0.1)
        assert self.at_head(client)

    def at_head(self, client: Client) -> bool:
        return client.at["r1"] == self.broker.head_now("r1")


def scene_test(test: Any) -> Any:
    """Run the coroutine on a clock that jumps."""

    def run() -> None:
        loop = JumpingLoop()
        failures: list[Any] = []
        loop.set_exception_handler(lambda _, context: failures.append(context))
        try:
            loop.run_until_complete(test(Scene()))
        finally:
            loop.close()
        assert not failures

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@scene_test
async def test_a_hole_in_the_feed_is_filled_at_once(scene: Scene) -> None:
    client = await scene.joined()
    scene.traffic("deliver", "drop", "drop", "deliver")
    await asyncio.sleep(0.1)
    assert scene.at_head(client)


@scene_test
async def test_a_lost_last_message_is_found_by_the_check(scene: Scene) -> None:
    client = await scene.joined()
    scene.traffic("deliver", "drop")
    await scene.hub.check()
    await asyncio.sleep(0.1)
    assert scene.at_head(client)


@scene_test
async def test_messages_missed_by_the_feed_are_delivered_when_it_is_back(scene: Scene) -> None:
    client = await scene.joined()
    scene.broker.disconnect(reads_too=False)
    scene.traffic("deliver", "deliver")
    scene.broker.connect()
    await asyncio.sleep(0.1)
    assert scene.at_head(client)


@scene_test
async def test_messages_between_subscription_and_head_are_neither_lost_nor_repeated(scene: Scene) -> None:
    scene.broker.read_delay_s = 1.0
    client = scene.client()
    client.join("r1", None)
    for _ in range(12):
        scene.traffic("deliver")
        await asyncio.sleep(0.5)
    assert scene.at_head(client)


@scene_test
async def test_a_client_that_reads_again_is_refilled_at_once(scene: Scene) -> None:
    client, other = await scene.joined(), await scene.joined()
    client.set_reading(False)
    for _ in range(30):
        scene.traffic("deliver")
        await asyncio.sleep(0)
    assert client.session.paused
    assert scene.at_head(other), "others wait for a slow client"
    client.set_reading(True)
    await asyncio.sleep(0.1)
    assert scene.at_head(client)


@scene_test
async def test_a_position_that_another_worker_delivered_first_is_recovered(scene: Scene) -> None:
    client = await scene.joined()
    scene.traffic("deliver", "drop", "drop")
    ahead = scene.broker.head_now("r1")
    assert ahead is not None
    comer = await scene.joined(since=ahead)
    assert comer.at["r1"] == ahead
    scene.traffic("deliver")
    await asyncio.sleep(0.1)
    assert scene.at_head(comer)
    assert scene.at_head(client)


@scene_test
async def test_an_old_position_is_recovered_and_a_trimmed_one_is_not(scene: Scene) -> None:
    client = await scene.joined()
    start = client.at["r1"]
    scene.traffic(*["deliver"] * 20)
    await asyncio.sleep(0.1)
    comer = await scene.joined(since=start)  # `on_event` checks that it starts there and misses nothing
    assert scene.at_head(comer)
    scene.broker.archive = None
    scene.broker.trim("r1", keep=5)
    late = scene.client()
    late.join("r1", start)
    await asyncio.sleep(0.1)
    assert scene.at_head(late)
    assert late.joins == [(Position(start.epoch, 15), False)]
    assert late.heard == [Position(start.epoch, seq) for seq in range(16, 21)], "what exists follows"


@scene_test
async def test_a_client_that_was_gone_for_longer_than_the_log_gets_all_from_the_archive(scene: Scene) -> None:
    start = (await scene.joined()).at["r1"]
    scene.traffic(*["deliver"] * 20)
    await asyncio.sleep(0.1)
    scene.broker.trim("r1", keep=5)
    late = await scene.joined(since=start)
    await asyncio.sleep(0.1)
    assert late.joins == [(start, True)]
    assert late.heard == [Position(start.epoch, seq) for seq in range(1, 21)]
    scene.traffic("deliver")
    await asyncio.sleep(0.1)
    assert scene.at_head(late)
    # What the archive no longer has either is gone. All that exists follows.
    scene.archive.forget("r1", 8)
    last = await scene.joined(since=start)
    await asyncio.sleep(0.1)
    assert last.joins == [(Position(start.epoch, 8), False)]
    assert last.heard == [Position(start.epoch, seq) for seq in range(9, 22)]


@scene_test
async def test_a_slow_reader_is_fed_from_the_archive(scene: Scene) -> None:
    client = await scene.joined()
    client.set_reading(False)
    for _ in range(30):
        scene.traffic("deliver")
        await asyncio.sleep(0)
    assert client.session.paused
    scene.broker.trim("r1", keep=3)
    client.set_reading(True)
    await asyncio.sleep(0.1)
    assert [position.seq for position in client.heard] == list(range(1, 31)), "a gap"


@scene_test
async def test_members_that_need_the_archive_wait_until_it_is_back(scene: Scene) -> None:
    slow = await scene.joined()
    start = slow.at["r1"]
    slow.set_reading(False)
    for _ in range(20):
        scene.traffic("deliver")
        await asyncio.sleep(0)
    scene.broker.trim("r1", keep=3)
    scene.archive.available = False
    waits = metrics.ARCHIVE_WAITS._value.get()
    slow.set_reading(True)
    late = await scene.joined(since=start)
    assert late.joins == [(start, True)]
    await scene.hub.check()
    await asyncio.sleep(1)
    assert late.heard == []
    assert metrics.ARCHIVE_WAITS._value.get() > waits
    scene.traffic("deliver")
    scene.archive.available = True
    await scene.hub.check()
    await asyncio.sleep(1)
    for client in (late, slow):
        assert [position.seq for position in client.heard] == list(range(1, 22))
        assert scene.at_head(client)


@scene_test
async def test_a_room_serves_others_while_its_members_wait_for_the_archive(scene: Scene) -> None:
    client = await scene.joined()
    scene.broker.disconnect(reads_too=True)
    scene.traffic(*["drop"] * 20)
    scene.broker.trim("r1", keep=3)
    scene.archive.available = False
    scene.broker.connect()
    await asyncio.sleep(1)
    assert client.heard == []
    comer = await scene.joined()
    scene.traffic("deliver")
    await asyncio.sleep(1)
    assert scene.at_head(comer)
    assert client.heard == []
    scene.archive.available = True
    await scene.hub.check()
    await asyncio.sleep(1)
    assert [position.seq for position in client.heard] == list(range(1, 22))
    scene.traffic("deliver")
    await asyncio.sleep(1)
    assert scene.at_head(client)


@scene_test
async def test_a_client_whose_buffer_fills_during_its_join_is_not_served_live(scene: Scene) -> None:
    await scene.joined()
    scene.broker.read_delay_s = 1.0
    client = scene.client()
    client.join("r1", Position(1, 1))
    client.reading = False
    await asyncio.sleep(0.1)
    client.session.pause()
    await asyncio.sleep(10)
    scene.traffic("deliver", "deliver")  # `write` fails if they reach it
    await asyncio.sleep(10)
    client.set_reading(True)
    await asyncio.sleep(10)
    assert scene.at_head(client)


@scene_test
async def test_a_client_whose_buffer_fills_while_the_log_is_read_for_it_gets_no_more(scene: Scene) -> None:
    start = (await scene.joined()).at["r1"]
    scene.traffic(*["deliver"] * 9)
    scene.broker.read_delay_s = 0.25
    client = scene.client()
    client.reading = False
    client.join("r1", start)
    await asyncio.sleep(0.75)  # the first three have arrived, the next are being read
    client.session.pause()
    await asyncio.sleep(5)
    client.set_reading(True)
    await asyncio.sleep(5)
    assert scene.at_head(client)


@scene_test
async def test_a_failed_refill_is_continued_by_the_check(scene: Scene) -> None:
    start = (await scene.joined()).at["r1"]
    scene.traffic(*["deliver"] * 9)
    await asyncio.sleep(0.1)
    client = scene.client()
    client.join("r1", start)
    await asyncio.sleep(0)
    while client.at.get("r1") is None:  # noqa: ASYNC110 - by turns of the loop
        await asyncio.sleep(0)
    scene.broker.failing_reads = 1
    await asyncio.sleep(0.1)
    assert not scene.at_head(client)
    await scene.hub.check()
    await asyncio.sleep(0.1)
    assert scene.at_head(client)


@scene_test
async def test_a_join_that_cannot_be_decided_fails_rather_than_giving_up_the_position(scene: Scene) -> None:
    await scene.joined()
    scene.traffic("deliver", "drop")
    ahead = scene.broker.head_now("r1")
    scene.broker.failing_reads = 1
    client = scene.client()
    client.join("r1", ahead)
    await asyncio.sleep(0.1)
    assert "r1" not in client.at
    assert not client.waiting["r1"], "no answer"
    assert client.session.rooms == set()


@scene_test
async def test_a_lost_tail_is_not_waited_for(scene: Scene) -> None:
    client = await scene.joined()
    scene.traffic("deliver", "drop", "delay")
    scene.broker.lose_tail("r1", 1, noticed=False)
    scene.broker.deliver("deliver")
    await asyncio.sleep(1)
    scene.traffic("deliver")
    await asyncio.sleep(1)
    assert scene.at_head(client)


@scene_test
async def test_a_new_epoch_comes_after_the_tail_of_the_old_one(scene: Scene) -> None:
    client = await scene.joined()
    first = client.at["r1"].epoch
    scene.traffic("deliver", "drop", "drop")
    scene.broker.begin_life("r1")
    scene.traffic("drop", "deliver")
    await asyncio.sleep(0.1)
    assert client.at["r1"].epoch > first
    assert scene.at_head(client)


@scene_test
async def test_a_client_that_was_gone_while_an_epoch_ended_gets_the_rest_of_it(scene: Scene) -> None:
    start = (await scene.joined()).at["r1"]
    scene.traffic(*["deliver"] * 9)
    await asyncio.sleep(0.1)
    end = scene.broker.head_now("r1")
    assert end is not None
    scene.broker.begin_life("r1")
    scene.traffic("deliver")
    scene.broker.begin_life("r1")  # and a second time
    scene.traffic("deliver")
    scene.broker.trim("r1", keep=5)
    await asyncio.sleep(0.1)
    for since, missed in ((start, 9), (Position(start.epoch, 4), 5), (end, 0)):
        client = await scene.joined(since=since)
        await asyncio.sleep(0.1)
        assert client.joins == [(since, True)]
        assert len(client.heard) == missed + 2
        assert len(client.resets) == 2
        assert scene.at_head(client)


@scene_test
async def test_without_a_known_end_the_start_of_the_next_epoch_is_no_recovery(scene: Scene) -> None:
    end = (await scene.joined()).at["r1"]
    scene.traffic("deliver")
    scene.broker.expire("r1")
    scene.traffic("drop", "drop")
    await scene.hub.check()
    await asyncio.sleep(0.1)
    client = await scene.joined(since=Position(end.epoch, 1))
    head = scene.broker.head_now("r1")
    assert head is not None
    assert client.joins == [(Position(head.epoch, 0), False)]
    assert scene.at_head(client)


@scene_test
async def test_what_an_epoch_is_known_to_have_lost_is_a_gap(scene: Scene) -> None:
    """Redis restarts without its last two messages, which a worker had delivered."""
    first = await scene.joined()
    epoch = first.at["r1"].epoch
    scene.traffic(*["deliver"] * 5)
    await asyncio.sleep(0.1)
    scene.broker.lose_tail("r1", 2, noticed=True)
    scene.traffic("deliver")
    await asyncio.sleep(0.1)
    assert scene.at_head(first)
    head = scene.broker.head_now("r1")
    assert head is not None
    away = await scene.joined(since=Position(epoch, 2))
    await asyncio.sleep(0.1)
    assert away.joins == [(Position(epoch, 2), True)]
    assert away.heard == [Position(epoch, 3), Position(head.epoch, 1)], "and a gap, which `on_event` checks"
    assert away.gaps == [(4, 5)]
    at_the_loss = await scene.joined(since=Position(epoch, 3))
    await asyncio.sleep(0.1)
    assert at_the_loss.joins == [(Position(head.epoch, 0), False)]
    complete = await scene.joined(since=Position(epoch, 5))
    await asyncio.sleep(0.1)
    assert complete.joins == [(Position(epoch, 5), True)]


@scene_test
async def test_a_client_shows_that_the_log_lost_its_tail_if_the_archive_agrees(scene: Scene) -> None:
    epoch = (await scene.joined()).at["r1"].epoch
    scene.traffic(*["drop"] * 5)
    scene.broker.move("r1")
    scene.broker.lose_tail("r1", 3, noticed=False)
    assert scene.broker.publish_now("r1") is None
    forged = await scene.joined(since=Position(epoch, 6))
    assert forged.joins == [(Position(epoch, 2), False)]
    assert scene.broker.publish_now("r1") is None, "the word of a client is enough"
    scene.archive.available = False
    await scene.joined(since=Position(epoch, 5))
    assert scene.broker.publish_now("r1") is None
    scene.archive.available = True
    client = await scene.joined(since=Position(epoch, 5))
    scene.traffic("deliver")
    await asyncio.sleep(0.1)
    assert client.joins == [(Position(epoch, 5), True)]
    assert len(client.resets) == 1
    assert [position.seq for position in client.heard] == [1]
    assert scene.at_head(client)


@scene_test
async def test_an_unused_room_is_dropped_and_can_be_joined_again(scene: Scene) -> None:
    client = await scene.joined()
    client.send(type="leave", room="r1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "_IDLE_ROOM_S", -1.0)
        await scene.hub.check()
    assert scene.broker.subscribed == set()
    scene.traffic("deliver")
    await scene.join_and_hear(client)


@scene_test
async def test_commands_behind_a_join_wait_for_it_in_order(scene: Scene) -> None:
    scene.broker.read_delay_s = 1.0
    client = scene.client()
    client.join("r1", None)
    client.send(type="leave", room="r1")
    client.join("r1", None)
    assert client.held
    await asyncio.sleep(20)
    assert not client.held
    assert scene.at_head(client)
    scene.traffic("deliver")
    await asyncio.sleep(0.1)
    assert scene.at_head(client)


@scene_test
async def test_a_cancellation_left_behind_by_a_store_does_not_block_the_session(scene: Scene) -> None:
    async def cancelled(*_join: Any) -> None:
        raise asyncio.CancelledError

    client, events = scene.client(), list[Any]()
    client.on_event = events.append  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.hub, "join", cancelled)
        client.join("r1", None)
        await asyncio.sleep(1)
    assert [event["code"] for event in events] == ["unavailable"]
    assert not client.held


@scene_test
async def test_a_cancellation_left_behind_by_a_store_does_not_end_the_checks(scene: Scene) -> None:
    client = scene.client()
    await scene.join_and_hear(client)
    scene.broker.heads = AsyncMock(side_effect=asyncio.CancelledError)  # type: ignore[method-assign]
    await scene.hub.check()
    assert scene.broker.heads.called


@scene_test
async def test_a_room_that_could_not_be_opened_can_be_joined_later(scene: Scene) -> None:
    client, events = scene.client(), []
    for step in ("subscribe", "head"):
        working = getattr(scene.broker, step)
        for error, code in ((ZeroDivisionError, "internal"), (asyncio.CancelledError, "unavailable")):
            setattr(scene.broker, step, AsyncMock(side_effect=error))
            client.on_event = events.append  # type: ignore[method-assign]
            client.join("r1", None)
            await asyncio.sleep(1)
            assert [event["code"] for event in events] == [code]
            assert (scene.hub.rooms, scene.broker.subscribed) == (0, set())
            events.clear()
            client.waiting["r1"].clear()
        setattr(scene.broker, step, working)
    del client.on_event  # type: ignore[method-assign]
    await scene.join_and_hear(client)


@scene_test
async def test_a_publish_with_an_unexpected_error_is_answered(scene: Scene) -> None:
    client, events = scene.client(), []
    client.on_event = events.append  # type: ignore[method-assign]
    futures = [asyncio.get_running_loop().create_future() for _ in range(256)]
    scene.broker.publish = lambda _room, _user, id, *_: futures[int(id)]  # type: ignore[method-assign]
    for n in range(256):
        client.send(type="publish", room="r1", id=str(n), data=n)
    assert client.held
    for future in futures[1:]:
        future.set_exception(ZeroDivisionError())
    futures[0].cancel()
    await asyncio.sleep(0.1)
    assert not client.held
    assert {event["id"] for event in events} == {str(n) for n in range(256)}
    assert {event["code"] for event in events} == {"outcome_unknown"}


@scene_test
async def test_a_client_that_disconnects_during_its_join_leaves_nothing(scene: Scene) -> None:
    scene.broker.read_delay_s = 1.0
    client = scene.client()
    presence = asyncio.create_task(client.presence.run())
    client.join("r1", None)
    await asyncio.sleep(0.5)
    client.session.close()
    await asyncio.sleep(10)
    scene.traffic("deliver")
    await asyncio.sleep(1)
    assert client.buffer == b""
    assert client.at == {}
    # Presence does not subtract a member that it never counted.
    client.presence.entered("r1", "c")
    await asyncio.sleep(1)
    assert (await client.presence.page("r1", "", 10)).members == [PresenceMember("c", 1)]
    presence.cancel()
    await asyncio.wait([presence])
