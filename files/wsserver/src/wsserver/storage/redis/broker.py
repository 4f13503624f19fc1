# SPDX-License-Identifier: MIT
"""The broker of a fleet: Redis holds each room's log and carries its live feed between the workers.

With an archive, every message goes to its shard's archive stream in the same step; see
archive_stream.py.

Redis may come back older than it was: from a backup, as a replica that was behind, or without the
end of its append only file. Each worker therefore tells what it has seen before it publishes to a
Redis that has restarted: the last message of each room that it served or published to, and how far
Postgres has the archive's streams. If the data is older, all rooms of that shard begin new epochs;
see scripts/prove.lua.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from typing import Any, Protocol

import hiredis
import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from wsserver.errors import ArchiveUnavailable, BrokerBusy, BrokerError, BrokerFull, BrokerUnavailable, OutcomeUnknown
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import READ_BYTES, Delivered, Listener, Published
from wsserver.runtime.pauses import Pauses
from wsserver.runtime.tasks import apart, fail
from wsserver.status import NEARLY_FULL
from wsserver.storage.redis.connection import (
    COMMAND_TIMEOUT_S,
    RedisAddress,
    SoundConnection,
    full,
    is_disk_full,
    reading,
    script,
)
from wsserver.storage.redis.disk import Disk
from wsserver.storage.redis.envelope import decode, now, publisher_fields
from wsserver.storage.redis.keys import CONTROL_CHANNEL, SHARDS, LogLimits, RoomKeys, archive_stream, life, shard_of
from wsserver.storage.redis.memory import fullness
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

_CONTROL = CONTROL_CHANNEL.encode()
# To all workers, which may have proved Redis before with less to show. Earlier releases ignore it.
_PROVE = b'{"order":"prove"}'
_DEDUPE_TTL_S = 300
# An unanswered ping means that Redis is gone: a healthy Redis pauses for far less time.
_CHECK_INTERVAL_S = 2.0
_SILENCE_LIMIT_S = 6.0
_RETRY_DELAY_MAX_S = 1.0
# Bounds one pipeline's memory, and how long a publish waits behind others.
_PUBLISH_BATCH = 200
_SUBSCRIBE_BATCH = 500
# The live feed holds the event loop for so long at most, besides one message.
_FEED_TURN_S = 0.01
# Publishes of all clients that may wait for a slow Redis, in bytes; each takes some more than its
# data.
_WAITING_BYTES_MAX = 32 * 2**20
_PUBLISH_BYTES = 1024
# Errors of a condition that passes.
_PASSING = ("NOREPLICAS", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
_HEADS_BATCH = 500
# The rooms of which a worker remembers its last publish: a Redis that lost data lost the newest.
_ACKNOWLEDGED_ROOMS = 1000
# Longer than a healthy Postgres takes; publishing must not wait for one that hangs.
_WITNESS_TIMEOUT_S = 2.0


class _MemberEvent(msgspec.Struct):
    """A user's first connection joined a room (1), or the last one left it (0).

    See scripts/presence.lua.
    """

    member: str
    joined: int


class Witness(Protocol):
    """A store that knows which messages Redis has had."""

    async def newest(self, except_process: str) -> dict[int, str]:
        """Of each shard, the newest id of the archive's stream that was seen in another process of
        Redis than this one (a run id). Raises ArchiveUnavailable.
        """


class RedisBroker:
    """Has one connection for the live feed, one for the publishes, one for the checks, and a few
    for the reads.

    `witness`: Postgres, if messages go there. A room's log then also keeps the messages that
    Postgres does not have. `pauses`: of this process; publishes from before a pause are refused.
    """

    def __init__(
        self,
        address: RedisAddress,
        log: LogLimits,
        witness: Witness | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        self.available = False
        self.fullness = 0.0
        self._disk = Disk()
        self._log = log
        self._witness = witness
        self._pauses = pauses or Pauses()
        self._pauses.then(self._stood_still)
        self._redis = address.client(connections=8)
        self._control = address.client(connections=1)
        self._publisher: AbstractConnection | None = None
        self._publish_sha = ""
        self._head = self._redis.register_script(script("room.lua", "head.lua"))
        self._heads = self._redis.register_script(script("room.lua", "heads.lua"))
        self._renew = self._redis.register_script(script("room.lua", "renew.lua"))
        self._delivered = self._redis.register_script(script("delivered.lua", flags="no-writes"))
        self._read = self._redis.register_script(script("read.lua", flags="no-writes"))
        self._prove_shard = self._control.register_script(script("prove.lua", flags="allow-oom"))
        self._process = ""  # the run id of the Redis that this worker proved
        self._kind = ""
        self._incarnations = [""] * SHARDS
        self._prove_now = asyncio.Event()
        self._witnessed = False  # whether the witness was heard about this process
        self._acknowledged: dict[str, Delivered] = {}  # room -> its last publish; the latest rooms
        self._queue: list[tuple[str, float, int, tuple[Any, ...], asyncio.Future[Published]]] = []
        self._waiting_bytes = 0  # of the publishes that have no answer
        self._queued = asyncio.Event()
        self._feed: AbstractConnection | None = None
        self._feed_heard = 0.0
        self._channels: dict[str, str] = {}  # channel -> room, for all subscriptions
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._member_decoder = msgspec.json.Decoder(_MemberEvent)

    @property
    def disk_full(self) -> bool:
        return self._disk.full

    # Connection.

    async def run(self, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        delay = 0.0
        try:
            while True:
                try:
                    await apart(self._stay_connected(listener, carry_out))
                except Exception as failure:
                    was_available = self.available
                    self._disk.ended(_causes(failure))
                    await self._disconnected()
                    delay = 0.0 if was_available else delay
                    log.warning("broker_unavailable", error=_cause(failure), retry_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2 or 0.05, _RETRY_DELAY_MAX_S)
        finally:
            await self._disconnected()
            await self._redis.aclose()
            await self._control.aclose()

    async def _stay_connected(self, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        """Serve until something about the connection fails.

        Each part runs `apart`: to a task group, a cancelled task has finished, and the connection
        would go on without it.
        """
        async with asyncio.TaskGroup() as tasks:
            await self._connect(tasks, listener, carry_out)
            log.info("broker_available", life=self._kind, rooms=len(self._channels))
            listener.on_available()
            tasks.create_task(apart(self._send_publishes()))
            tasks.create_task(apart(self._check(listener)))

    async def _connect(self, tasks: asyncio.TaskGroup, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        # Connect before asking for the incarnation: no publish reaches a later Redis with the
        # incarnation of an earlier one.
        self._publisher = await self._dedicated()
        self._publish_sha = await self._control.script_load(script("room.lua", "archived_position.lua", "publish.lua"))
        await self._prove(listener)
        self._feed = await self._dedicated()
        self._feed_heard = time.monotonic()
        tasks.create_task(apart(self._read_feed(self._feed, listener, carry_out)))
        channels = [CONTROL_CHANNEL, *self._channels]
        async with asyncio.timeout(_SILENCE_LIMIT_S + len(channels) / 1000):
            for start in range(0, len(channels), _SUBSCRIBE_BATCH):
                batch = channels[start : start + _SUBSCRIBE_BATCH]
                confirmed = [self._expect(channel) for channel in batch]
                await self._feed.send_command("SUBSCRIBE", *batch)
                await asyncio.gather(*confirmed)
        self.available = True

    async def _dedicated(self) -> AbstractConnection:
        connection: SoundConnection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        connection.dedicated = True
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection

    def _unavailable(self) -> BrokerUnavailable:
        if self.disk_full:
            return BrokerFull("the broker cannot write to its disk; nothing was published")
        return BrokerUnavailable("the broker is unavailable; nothing was published")

    async def _disconnected(self) -> None:
        self.available = False
        self._drop_queue(self._unavailable())
        self._waiting_bytes = 0
        for confirmation in self._confirmations.values():
            fail(confirmation, BrokerUnavailable())
        self._confirmations.clear()
        for connection in (self._feed, self._publisher):
            if connection is not None:
                await connection.disconnect(nowait=True)
        self._feed = self._publisher = None

    def _drop_queue(self, error: BrokerError) -> None:
        queue, self._queue = self._queue, []
        for _room, _ts, size, _arguments, future in queue:
            self._waiting_bytes -= size
            fail(future, error)

    def _stood_still(self, _seconds: float) -> None:
        """Redis recognises the queued publishes as repeats no longer."""
        self._drop_queue(_stood_still())

    async def _prove(self, listener: Listener) -> None:
        """Learn the incarnation of each shard, and change it where the data is older than before."""
        process = str((await self._control.info("server"))["run_id"])
        self._disk.reached(process)
        missing: set[int] = set()
        if process != self._process:
            for known in (listener.delivered(), self._acknowledged) if self._process else ():
                missing |= await self._missing(known)
            self._witnessed = False
        seen = {} if self._witnessed else await self._ask_witness(process)
        kind = await self._kind_of_incarnation(process)
        async with self._control.pipeline(transaction=False) as pipeline:
            for shard in range(SHARDS):
                await self._prove_shard(
                    keys=[life(shard), archive_stream(shard)],
                    args=[kind, process, secrets.token_hex(8), seen.get(shard, ""), int(shard in missing)],
                    client=pipeline,
                )
            with self._disk.writing():
                replies = await pipeline.execute()
        # What was missing is accounted for: the next start of Redis must not find it once more.
        for room in [room for room in self._acknowledged if shard_of(room) in missing]:
            del self._acknowledged[room]
        self._process, self._kind = process, kind
        self._incarnations = [name.decode() for name, _older in replies]
        older = [shard for shard, (_name, older) in enumerate(replies) if older]
        if older:
            metrics.BROKER_DATA_LOST.inc(len(older))
            log.error("broker_data_is_older", shards=older, hint="their rooms begin new epochs")
            await self._control.publish(CONTROL_CHANNEL, _PROVE)

    async def _ask_witness(self, process: str) -> dict[int, str]:
        """What the witness has seen. If it is unavailable, `_check` asks again."""
        newest: dict[int, str] = {}
        try:
            if self._witness is not None:
                async with asyncio.timeout(_WITNESS_TIMEOUT_S):
                    newest = await self._witness.newest(process)
        except (ArchiveUnavailable, TimeoutError):
            if self._process != process:
                log.warning("broker_data_unproven", hint="until Postgres answers")
            return {}
        self._witnessed = True
        return newest

    async def _missing(self, delivered: dict[str, Delivered]) -> set[int]:
        """The shards that lack a message that this worker delivered, or have another one there."""
        rooms = list(delivered.items())
        shards: set[int] = set()
        for start in range(0, len(rooms), _HEADS_BATCH):
            batch = rooms[start : start + _HEADS_BATCH]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for room, (position, _ts) in batch:
                    keys = RoomKeys(room)
                    await self._delivered(keys=[keys.hash, keys.stream], args=[*position], client=pipeline)
                replies = await pipeline.execute()
            for (room, (position, ts)), (epoch, seq, header) in zip(batch, replies, strict=True):
                if epoch:
                    there = self._decode(room, header) if header and ts else None
                    lost = Position(int(epoch), int(seq)) < position or (there is not None and there.ts != ts)
                else:
                    lost = ts > time.time() - self._log.ttl_s / 2  # else the room may have expired
                if lost:
                    shards.add(shard_of(room))
        return shards

    async def _kind_of_incarnation(self, process: str) -> str:
        """See scripts/room.lua."""
        settings = await self._control.config_get("append*")
        return "aof" if settings["appendonly"] == "yes" and settings["appendfsync"] == "always" else process

    async def _check(self, listener: Listener) -> None:
        """Notice a Redis that is gone and did not close (a half-open connection, a stopped
        process).
        """
        assert self._feed is not None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_INTERVAL_S):
                    await self._prove_now.wait()
            due = self._prove_now.is_set() or not self._witnessed
            if due or await self._kind_of_incarnation(self._process) != self._kind:
                self._prove_now.clear()
                await self._prove(listener)
            self._measured(await fullness(self._control))
            await self._disk.measure(self._control)
            await self._feed.send_command("PING")
            if time.monotonic() - self._feed_heard > _SILENCE_LIMIT_S:
                raise TimeoutError("the live feed is silent")

    def _measured(self, fullness: float) -> None:
        if fullness >= NEARLY_FULL > self.fullness:
            log.warning("broker_nearly_full", percent=round(100 * fullness))
        elif fullness < NEARLY_FULL <= self.fullness:
            log.info("broker_has_room", percent=round(100 * fullness))
        self.fullness = fullness

    # The live feed.

    async def subscribe(self, room: str) -> None:
        if not self.available or self._feed is None:
            raise BrokerFull("the broker cannot write to its disk") if self.disk_full else BrokerUnavailable()
        channel = RoomKeys(room).channel
        self._channels[channel] = room
        confirmation = self._expect(channel)
        try:
            await self._feed.send_command("SUBSCRIBE", channel)
            await confirmation
        except (RedisError, OSError, BrokerUnavailable) as exc:
            self._channels.pop(channel, None)
            raise BrokerUnavailable() from exc

    async def unsubscribe(self, room: str) -> None:
        channel = RoomKeys(room).channel
        self._channels.pop(channel, None)
        if self._feed is not None and self.available:
            try:
                await self._feed.send_command("UNSUBSCRIBE", channel)
            except (RedisError, OSError):
                return  # the connection is gone, and the subscription with it

    def _expect(self, channel: str) -> asyncio.Future[None]:
        confirmation = self._confirmations.get(channel)
        if confirmation is None:
            confirmation = self._confirmations[channel] = asyncio.get_running_loop().create_future()
        return confirmation

    async def _read_feed(
        self, feed: AbstractConnection, listener: Listener, carry_out: Callable[[bytes], None]
    ) -> None:
        turn_began = time.monotonic()
        while True:
            try:
                reply = await feed.read_response(timeout=math.inf)
            except ResponseError as exc:
                if not is_disk_full(exc):
                    raise
                reply = None  # the answer to the ping of a Redis that refuses writes, and pings
            self._feed_heard = time.monotonic()
            if self._feed_heard - turn_began > _FEED_TURN_S:
                # Replies that have arrived are read without a turn of the event loop in between.
                await asyncio.sleep(0)
                turn_began = time.monotonic()
            match reply:
                case [b"message", channel, payload] if channel == _CONTROL:
                    if payload == _PROVE:
                        self._prove_now.set()
                    else:
                        carry_out(payload)
                case [b"message", channel, payload]:
                    self._receive(channel.decode(), payload, listener)
                case [b"subscribe", channel, _]:
                    confirmation = self._confirmations.pop(channel.decode(), None)
                    if confirmation is not None and not confirmation.done():
                        confirmation.set_result(None)

    def _receive(self, channel: str, payload: bytes, listener: Listener) -> None:
        room = self._channels.get(channel)
        if room is None:
            return  # unsubscribed meanwhile
        try:
            if payload.startswith(b'{"member":'):
                event = self._member_decoder.decode(payload)
                listener.on_member(room, event.member, event.joined == 1)
            else:
                listener.on_message(decode(room, payload))
        except msgspec.MsgspecError as exc:
            _note_unreadable(exc)

    def _decode(self, room: str, envelope: bytes) -> Message | None:
        try:
            return decode(room, envelope)
        except msgspec.MsgspecError as exc:
            _note_unreadable(exc)
            return None

    # Publishing.

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        if not self.available:
            future.set_exception(self._unavailable())
            return future
        if self._pauses.check():
            future.set_exception(_stood_still())
            return future
        if self._waiting_bytes >= _WAITING_BYTES_MAX:
            metrics.LIMITED.labels("broker_queue").inc()
            future.set_exception(BrokerBusy("too many publishes wait for the broker; nothing was published"))
            return future
        size = len(data) + _PUBLISH_BYTES
        self._waiting_bytes += size
        names = RoomKeys(room)
        keys = [names.hash, names.stream, names.once(user, room, id), names.channel]
        ts = now()
        values: list[Any] = [self._incarnations[names.shard], publisher_fields(user, ts, trace), data]
        values += [self._log.length, self._log.bytes, self._log.ttl_s, _DEDUPE_TTL_S]
        if self._witness is not None:
            keys.append(names.archive)
            values.append(room)
        arguments = (len(keys), *keys, *values)
        self._queue.append((room, ts, size, arguments, future))
        self._queued.set()
        return future

    async def _send_publishes(self) -> None:
        """Send one pipeline at a time, in order. Publishes that arrive meanwhile form the next."""
        assert self._publisher is not None
        connection = self._publisher
        while True:
            await self._queued.wait()
            self._pauses.check()
            batch, self._queue = self._queue[:_PUBLISH_BATCH], self._queue[_PUBLISH_BATCH:]
            if not self._queue:
                self._queued.clear()
            if not batch:
                continue
            # hiredis packs, and one deadline serves all replies: redis-py's own cost as much as all
            # else here.
            commands = [
                hiredis.pack_command(("EVALSHA", self._publish_sha, *arguments))
                for *_place, arguments, _future in batch
            ]
            sent = time.monotonic()
            try:
                with self._disk.writing():
                    await connection.send_packed_command(commands)
                    async with asyncio.timeout(COMMAND_TIMEOUT_S):
                        replies = [await _reply(connection) for _publish in batch]
                metrics.BROKER_PUBLISH.observe(time.monotonic() - sent)
            except BaseException:
                unknown = OutcomeUnknown("the broker's answer was lost; repeat the publish with the same id")
                for *_publish, future in batch:
                    fail(future, unknown)
                raise
            for (room, ts, size, _arguments, future), reply in zip(batch, replies, strict=True):
                self._waiting_bytes -= size
                if isinstance(reply, Exception):
                    fail(future, _broker_error(reply))
                    continue
                epoch, seq, repeat = reply
                published = Published(Position(int(epoch), seq), repeat == 1)
                if not published.repeat:
                    self._acknowledge(room, Delivered(published.position, ts))
                if not future.done():
                    future.set_result(published)
            for reply in replies:
                # Redis lost the scripts, or a replica took the master's place: only a new
                # connection helps.
                if isinstance(reply, NoScriptError | ReadOnlyError):
                    raise reply

    def _acknowledge(self, room: str, published: Delivered) -> None:
        known = self._acknowledged
        known.pop(room, None)  # the newest stay at the end
        known[room] = published
        if len(known) > _ACKNOWLEDGED_ROOMS:
            del known[next(iter(known))]

    # Control messages.

    async def publish_control(self, payload: bytes) -> None:
        async with reading():
            await self._redis.publish(CONTROL_CHANNEL, payload)

    # Reading.

    async def head(self, room: str) -> Position:
        keys = RoomKeys(room)
        async with reading():
            epoch, seq = await self._head(
                keys=[keys.hash, keys.stream], args=[self._incarnations[keys.shard], self._log.ttl_s]
            )
        return Position(int(epoch), seq)

    async def heads(self, rooms: list[str]) -> list[Position | None]:
        heads: dict[str, Position | None] = {}
        shards = [list(group) for _shard, group in groupby(sorted(rooms, key=shard_of), key=shard_of)]
        async with reading(), self._redis.pipeline(transaction=False) as pipeline:
            for some in shards:
                names = [key for keys in map(RoomKeys, some) for key in (keys.hash, keys.stream)]
                await self._heads(keys=names, args=[self._log.ttl_s], client=pipeline)
            replies = await pipeline.execute()
        for some, reply in zip(shards, replies, strict=True):
            positions = zip(reply[::2], reply[1::2], strict=True)
            heads.update(
                zip(some, (Position(int(epoch), int(seq)) if epoch else None for epoch, seq in positions), strict=True)
            )
        return [heads[room] for room in rooms]

    async def renew(self, room: str, seen: Position) -> Position:
        keys = RoomKeys(room)
        async with reading():
            epoch, seq = await self._renew(
                keys=[keys.hash, keys.stream],
                args=[self._incarnations[keys.shard], self._log.ttl_s, seen.epoch, seen.seq],
            )
        return Position(int(epoch), seq)

    async def ends(self, room: str) -> list[Position]:
        async with reading():
            ended: Any = await self._redis.hget(RoomKeys(room).hash, "ended")
        ends = (end.split(b"-") for end in (ended or b"").split())
        return [Position(int(epoch), int(seq)) for epoch, seq in ends]

    async def message(self, room: str, position: Position) -> Message | None:
        id = f"{position.epoch}-{position.seq}"
        async with reading():
            entries: Any = await self._redis.xrange(RoomKeys(room).stream, id, id)
        return self._decode(room, entries[0][1][b"m"]) if entries else None

    async def read(self, room: str, after: Position, limit: int) -> list[Message]:
        return await self._read_log(room, "XRANGE", f"({after.epoch}-{after.seq}", "+", limit)

    async def read_before(self, room: str, before: Position | None, limit: int) -> list[Message]:
        last = "+" if before is None else f"({before.epoch}-{before.seq}"
        return (await self._read_log(room, "XREVRANGE", last, "-", limit))[::-1]

    async def _read_log(self, room: str, command: str, start: str, end: str, limit: int) -> list[Message]:
        async with reading():
            envelopes = await self._read(keys=[RoomKeys(room).stream], args=[command, start, end, limit, READ_BYTES])
        messages = (self._decode(room, envelope) for envelope in envelopes)
        return [message for message in messages if message is not None]


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as exc:  # concerns this command only
        return exc


def _cause(failure: Exception) -> str:
    """Describes the failure that ended a connection. Raises any other exception."""
    causes = _causes(failure)
    # The first exception is the cause of the others.
    if not all(isinstance(cause, RedisError | OSError | TimeoutError) for cause in causes):
        raise failure
    for error in (failure, *causes):
        error.__traceback__ = None  # it refers to the task, which keeps the error: a cycle
    return f"{type(causes[0]).__name__}: {causes[0]}"


def _causes(failure: Exception) -> list[Exception]:
    return list(failure.exceptions) if isinstance(failure, ExceptionGroup) else [failure]


def _note_unreadable(exc: msgspec.MsgspecError) -> None:
    """This release never sends such a message. The hub repairs or reports the hole."""
    log.error("broker_envelope_unreadable", error=str(exc))


def _stood_still() -> BrokerUnavailable:
    return BrokerUnavailable("this worker stood still, and has dropped what waited; nothing was published")


def _broker_error(reply: Exception) -> BrokerError:
    """The error for a publish that Redis refused: nothing was published."""
    if isinstance(reply, NoScriptError | ReadOnlyError):
        return BrokerUnavailable("the broker is unavailable; nothing was published")
    if isinstance(reply, ResponseError) and str(reply).startswith(_PASSING):
        return BrokerUnavailable("the broker cannot accept the publish now; nothing was published")
    if (refusal := full(reply)) is not None:
        return BrokerFull(f"{refusal}; nothing was published")
    log.error("broker_error", error=f"{type(reply).__name__}: {reply}")
    return BrokerError("the broker refused the publish; nothing was published")
