# SPDX-License-Identifier: MIT
"""The broker of a fleet: Redis holds each room's log and carries its live feed between the workers.

With an archive, every message goes to its shard's archive stream in the same step; see
archive_stream.py.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any

import hiredis
import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from wsserver.errors import BrokerError, BrokerFull, BrokerUnavailable, OutcomeUnknown
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import READ_BYTES, Listener, Published
from wsserver.runtime.tasks import fail
from wsserver.status import NEARLY_FULL
from wsserver.storage.redis.connection import COMMAND_TIMEOUT_S, RedisAddress, SoundConnection, reading, script
from wsserver.storage.redis.envelope import decode, publisher_fields
from wsserver.storage.redis.keys import CONTROL_CHANNEL, LogLimits, RoomKeys, shard_of
from wsserver.storage.redis.memory import fullness
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

_CONTROL = CONTROL_CHANNEL.encode()
_DEDUPE_TTL_S = 300
# An unanswered ping means that Redis is gone: a healthy Redis pauses for far less time.
_CHECK_INTERVAL_S = 2.0
_SILENCE_LIMIT_S = 6.0
_RETRY_DELAY_MAX_S = 1.0
# Bounds one pipeline's memory, and how long a publish waits behind others.
_PUBLISH_BATCH = 200
_SUBSCRIBE_BATCH = 500
# Errors of a condition that passes.
_PASSING = ("NOREPLICAS", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")


class _MemberEvent(msgspec.Struct):
    """A user's first connection joined a room (1), or the last one left it (0).

    See scripts/presence.lua.
    """

    member: str
    joined: int


class RedisBroker:
    """Has one connection for the live feed, one for the publishes, one for the checks, and a few
    for the reads.

    `archive`: whether messages go to Postgres. A room's log then also keeps the messages that
    Postgres does not have.
    """

    def __init__(self, address: RedisAddress, log: LogLimits, archive: bool = False) -> None:
        self.available = False
        self.fullness = 0.0
        self._log = log
        self._archive = archive
        self._redis = address.client(connections=8)
        self._control = address.client(connections=1)
        self._publisher: AbstractConnection | None = None
        self._publish_sha = ""
        self._head = self._redis.register_script(script("room.lua", "head.lua"))
        self._heads = self._redis.register_script(script("room.lua", "heads.lua"))
        self._renew = self._redis.register_script(script("room.lua", "renew.lua"))
        self._read = self._redis.register_script(script("read.lua", flags="no-writes"))
        self._incarnation = ""
        self._queue: list[tuple[tuple[Any, ...], asyncio.Future[Published]]] = []
        self._queued = asyncio.Event()
        self._feed: AbstractConnection | None = None
        self._feed_heard = 0.0
        self._channels: dict[str, str] = {}  # channel -> room, for all subscriptions
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._member_decoder = msgspec.json.Decoder(_MemberEvent)

    # Connection.

    async def run(self, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        delay = 0.0
        try:
            while True:
                # A task of its own: redis-py's timeouts on Python 3.11.2 may leave a cancellation
                # behind, which would end the task that reconnects.
                attempt = asyncio.create_task(self._stay_connected(listener, carry_out))
                try:
                    await asyncio.wait([attempt])
                finally:
                    attempt.cancel()
                    await asyncio.wait([attempt])
                was_available = self.available
                await self._disconnected()
                delay = 0.0 if was_available else delay
                log.warning("broker_unavailable", error=_cause(attempt), retry_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2 or 0.05, _RETRY_DELAY_MAX_S)
        finally:
            await self._disconnected()
            await self._redis.aclose()
            await self._control.aclose()

    async def _stay_connected(self, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        """Serve until something about the connection fails."""
        async with asyncio.TaskGroup() as tasks:
            await self._connect(tasks, listener, carry_out)
            log.info("broker_available", life=self._incarnation, rooms=len(self._channels))
            listener.on_available()
            tasks.create_task(self._send_publishes())
            tasks.create_task(self._check())

    async def _connect(self, tasks: asyncio.TaskGroup, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        # Connect before asking for the incarnation: no publish reaches a later Redis with the
        # incarnation of an earlier one.
        self._publisher = await self._dedicated()
        self._publish_sha = await self._control.script_load(script("room.lua", "archived_position.lua", "publish.lua"))
        self._incarnation = await self._current_incarnation()
        self._feed = await self._dedicated()
        self._feed_heard = time.monotonic()
        tasks.create_task(self._read_feed(self._feed, listener, carry_out))
        channels = [CONTROL_CHANNEL, *self._channels]
        confirmed = [self._expect(channel) for channel in channels]
        for start in range(0, len(channels), _SUBSCRIBE_BATCH):
            await self._feed.send_command("SUBSCRIBE", *channels[start : start + _SUBSCRIBE_BATCH])
        async with asyncio.timeout(_SILENCE_LIMIT_S + len(channels) / 1000):
            await asyncio.gather(*confirmed)
        self.available = True

    async def _dedicated(self) -> AbstractConnection:
        connection: SoundConnection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        connection.dedicated = True
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection

    async def _disconnected(self) -> None:
        self.available = False
        queue, self._queue = self._queue, []
        for _arguments, future in queue:
            fail(future, BrokerUnavailable("the broker is unavailable; nothing was published"))
        for confirmation in self._confirmations.values():
            fail(confirmation, BrokerUnavailable())
        self._confirmations.clear()
        for connection in (self._feed, self._publisher):
            if connection is not None:
                await connection.disconnect(nowait=True)
        self._feed = self._publisher = None

    async def _current_incarnation(self) -> str:
        """See scripts/room.lua."""
        settings = await self._control.config_get("append*")
        if settings["appendonly"] == "yes" and settings["appendfsync"] == "always":
            return "aof"
        server = await self._control.info("server")
        return str(server["run_id"])

    async def _check(self) -> None:
        """Notice a Redis that is gone and did not close (a half-open connection, a stopped
        process).
        """
        assert self._feed is not None
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            self._incarnation = await self._current_incarnation()
            self._measured(await fullness(self._control))
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
            raise BrokerUnavailable()
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
        while True:
            reply = await feed.read_response(timeout=math.inf)
            self._feed_heard = time.monotonic()
            match reply:
                case [b"message", channel, payload] if channel == _CONTROL:
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
        if payload.startswith(b'{"member":'):
            event = self._member_decoder.decode(payload)
            listener.on_member(room, event.member, event.joined == 1)
        elif (message := self._decode(room, payload)) is not None:
            listener.on_message(message)

    def _decode(self, room: str, envelope: bytes) -> Message | None:
        try:
            return decode(room, envelope)
        except msgspec.MsgspecError as exc:
            # This release never sends such a message. The hub repairs or reports the hole.
            log.error("broker_envelope_unreadable", error=str(exc))
            return None

    # Publishing.

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        if not self.available:
            future.set_exception(BrokerUnavailable("the broker is unavailable; nothing was published"))
            return future
        names = RoomKeys(room)
        keys = [names.hash, names.stream, names.once(user, room, id), names.channel]
        values: list[Any] = [self._incarnation, publisher_fields(user, trace), data]
        values += [self._log.length, self._log.bytes, self._log.ttl_s, _DEDUPE_TTL_S]
        if self._archive:
            keys.append(names.archive)
            values.append(room)
        arguments = (len(keys), *keys, *values)
        self._queue.append((arguments, future))
        self._queued.set()
        return future

    async def _send_publishes(self) -> None:
        """Send one pipeline at a time, in order. Publishes that arrive meanwhile form the next."""
        assert self._publisher is not None
        connection = self._publisher
        while True:
            await self._queued.wait()
            batch, self._queue = self._queue[:_PUBLISH_BATCH], self._queue[_PUBLISH_BATCH:]
            if not self._queue:
                self._queued.clear()
            # hiredis packs, and one deadline serves all replies: redis-py's own cost as much as all
            # else here.
            commands = [
                hiredis.pack_command(("EVALSHA", self._publish_sha, *arguments)) for arguments, _future in batch
            ]
            sent = time.monotonic()
            try:
                await connection.send_packed_command(commands)
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    replies = [await _reply(connection) for _publish in batch]
                metrics.BROKER_PUBLISH.observe(time.monotonic() - sent)
            except BaseException:
                unknown = OutcomeUnknown("the broker's answer was lost; repeat the publish with the same id")
                for _arguments, future in batch:
                    fail(future, unknown)
                raise
            for (_arguments, future), reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    fail(future, _broker_error(reply))
                elif not future.done():
                    epoch, seq, repeat = reply
                    future.set_result(Published(Position(int(epoch), seq), repeat == 1))
            for reply in replies:
                # Redis lost the scripts, or a replica took the master's place: only a new
                # connection helps.
                if isinstance(reply, NoScriptError | ReadOnlyError):
                    raise reply

    # Control messages.

    async def publish_control(self, payload: bytes) -> None:
        async with reading():
            await self._redis.publish(CONTROL_CHANNEL, payload)

    # Reading.

    async def head(self, room: str) -> Position:
        keys = RoomKeys(room)
        async with reading():
            epoch, seq = await self._head(keys=[keys.hash, keys.stream], args=[self._incarnation, self._log.ttl_s])
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
                args=[self._incarnation, self._log.ttl_s, seen.epoch, seen.seq],
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


def _cause(attempt: asyncio.Task[None]) -> str:
    """Describes the failure that ended a connection. Raises any other exception."""
    if attempt.cancelled():
        return "CancelledError: a timeout of the client library was left behind"
    failure = attempt.exception()
    causes = failure.exceptions if isinstance(failure, BaseExceptionGroup) else [failure]
    # The first exception is the cause of the others.
    if failure is not None and not all(isinstance(cause, RedisError | OSError | TimeoutError) for cause in causes):
        raise failure
    return f"{type(causes[0]).__name__}: {causes[0]}"


def _broker_error(reply: Exception) -> BrokerError:
    """The error for a publish that Redis refused: nothing was published."""
    if isinstance(reply, NoScriptError | ReadOnlyError):
        return BrokerUnavailable("the broker is unavailable; nothing was published")
    if isinstance(reply, ResponseError) and str(reply).startswith(_PASSING):
        return BrokerUnavailable("the broker cannot accept the publish now; nothing was published")
    if isinstance(reply, OutOfMemoryError):
        return BrokerFull("the broker is out of memory; nothing was published")
    if isinstance(reply, ResponseError) and "MISCONF" in str(reply):
        return BrokerFull("the broker cannot write to its disk; nothing was published")
    log.error("broker_error", error=f"{type(reply).__name__}: {reply}")
    return BrokerError("the broker refused the publish; nothing was published")
