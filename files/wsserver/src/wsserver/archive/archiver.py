# SPDX-License-Identifier: MIT
"""Moves every message from Redis to Postgres, which keeps it for `archive_retention_days`.

Only publishes in durable rooms wait for this. While Postgres is unavailable, Redis keeps the
messages, and refuses publishes once its memory is full. Messages are moved at least once: writing a
message twice changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from wsserver.archive import marks, retention
from wsserver.archive.postgres import REFUSED, Postgres, PostgresUnavailable
from wsserver.errors import BrokerError, BrokerUnavailable
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import Broker
from wsserver.runtime.tasks import apart
from wsserver.status import ArchiveStatus
from wsserver.storage.redis.archive_stream import ArchiveStream
from wsserver.storage.redis.keys import shard_of
from wsserver.storage.redis.memory import LogShedder
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# The most for one transaction: encoding more would delay this worker's clients.
_MOST_ENTRIES = 1000
_MOST_BYTES = 2**20
# After a failure, so that a batch that was too large is not repeated. Each success doubles it.
_FEW_ENTRIES = 16
_PAUSE_S = 0.5
# Shorter than the leases of the streams, which each request renews.
_PAUSE_MAX_S = 4.0
# How often to check that Postgres answers while there is nothing to move.
_CHECK_INTERVAL_S = 5.0
_STORE_BATCH = 200
# The used part of Redis's memory above which archived messages leave it, and the part to reach.
_SHED_ABOVE = 0.7
_SHED_TO = 0.6
_SHED_INTERVAL_S = 5.0
# After a search without success, the pause is so many times as long: a search reads all keys.
_SHED_PAUSE = 10

_INSERT = """
    INSERT INTO messages (room, epoch, seq, sender, ts, data)
    SELECT room, epoch, seq, sender, to_timestamp(ts), data::json
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::float8[], $6::text[])
        AS moved (room, epoch, seq, sender, ts, data)
    ON CONFLICT DO NOTHING
"""
_THERE = """
    SELECT room, epoch, seq FROM messages
    JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS asked (room, epoch, seq) USING (room, epoch, seq)
"""


class NotArchived(BrokerError):
    """The message is published, and Postgres is not known to have it."""

    code = "not_archived"


_Place = tuple[str, Position]


class _Waiting(NamedTuple):
    """A publish that waits for Postgres. `message` is None if the room's log no longer has it."""

    place: _Place
    message: Message | None
    stored: asyncio.Future[None]

    def settle(self, missing: bool) -> None:
        if self.stored.done():
            return  # the publisher is gone
        if missing:
            self.stored.set_exception(_not_archived())
        else:
            self.stored.set_result(None)


class Archiver:
    """Moves the messages of some shards. At its end, `run` also closes the other objects, but not
    `broker`.

    `retention_days`: 0 keeps messages for ever.
    """

    def __init__(
        self, postgres: Postgres, stream: ArchiveStream, shedder: LogShedder, broker: Broker, retention_days: int
    ) -> None:
        self._postgres = postgres
        self._shedder = shedder
        self._stream = stream
        self._broker = broker
        self._retention_days = retention_days
        self._most_entries = _MOST_ENTRIES
        self._check_at = 0.0
        self._pending = 0
        self._lag_s = 0.0
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()

    async def run(self) -> None:
        """Move messages until cancelled. Survives outages of Redis and Postgres."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._move())
                tasks.create_task(self._store_waiting())
                tasks.create_task(self._shed())
                if self._retention_days:
                    tasks.create_task(retention.keep(self._postgres, self._retention_days))
        finally:
            for waiting in self._waiting:
                waiting.settle(missing=True)
            await self._stream.close()
            await self._shedder.close()
            await self._postgres.close()

    # All messages, within seconds.

    async def _move(self) -> None:
        pause_s = 0.0
        while True:
            try:
                pause_s = 0.0 if await apart(self._move_some()) else _PAUSE_S
            except Exception as exc:
                # The ports report outages of Redis and Postgres. A fault of this program must not
                # end the worker: it serves its clients without an archive.
                if not isinstance(exc, BrokerUnavailable) and pause_s <= _PAUSE_S:
                    log.exception("archive_failed")
                metrics.ARCHIVE_ERRORS.inc()
                self._most_entries = _FEW_ENTRIES
                pause_s = min(max(pause_s, _PAUSE_S) * 2, _PAUSE_MAX_S)
            await asyncio.sleep(pause_s)

    async def _move_some(self) -> bool:
        """Move one batch. Returns whether there are more messages."""
        heads = await self._stream.heads(self._most_entries, _MOST_BYTES)
        self._report(
            sum(head.pending for head in heads.values()), max((head.age_s for head in heads.values()), default=0)
        )
        entries = [entry for head in heads.values() for entry in head.entries]
        if not entries and self._postgres.available and time.monotonic() < self._check_at:
            return False
        messages = [entry.message for entry in entries if entry.message is not None]
        async with self._postgres.connection(even_if_unavailable=True) as connection:
            unwanted = {_place(message) for message in await _insert(connection, messages)}
            await marks.note(connection, heads)
        self._check_at = time.monotonic() + _CHECK_INTERVAL_S
        if not entries:
            return False
        refused = {entry.id for entry in entries if entry.message is None or _place(entry.message) in unwanted}
        await self._stream.moved(heads, refused)
        for entry in entries:
            if entry.message is None:
                log.error("archive_entry_unreadable", entry=entry.id)
        metrics.ARCHIVE_REFUSED.inc(len(refused))
        metrics.ARCHIVE_ROWS.inc(len(entries) - len(refused))
        remaining = sum(head.pending for head in heads.values()) - len(entries)
        self._report(remaining, self.status.lag_s if remaining else 0)
        self._most_entries = min(self._most_entries * 2, _MOST_ENTRIES)
        return remaining > 0

    def _report(self, pending: int, lag_s: float) -> None:
        self._pending, self._lag_s = pending, lag_s
        metrics.ARCHIVE_PENDING.set(pending)
        metrics.ARCHIVE_LAG.set(lag_s)

    @property
    def status(self) -> ArchiveStatus:
        """The state of the streams that this worker moves."""
        return ArchiveStatus(self._postgres.available, self._pending, self._lag_s)

    # Memory.

    async def _shed(self) -> None:
        """Let Redis give up archived messages before its memory is full."""
        pause_s = _SHED_INTERVAL_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _SHED_INTERVAL_S
            if self._broker.fullness < _SHED_ABOVE or not self._stream.leads:
                continue
            started = time.monotonic()
            try:
                logs = await apart(self._shedder.shed(_SHED_TO))
            except (BrokerUnavailable, TimeoutError):
                continue
            if not logs:
                pause_s = max(_SHED_INTERVAL_S, _SHED_PAUSE * (time.monotonic() - started))
                continue
            metrics.ARCHIVE_SHED.inc(logs)
            log.info("archived_messages_shed", logs=logs)

    # Single messages, at once.

    async def store(self, room: str, position: Position) -> None:
        """Return when Postgres has this message, which was just published. Raises NotArchived."""
        if not self._postgres.available:
            raise _not_archived()
        try:
            message = await self._broker.message(room, position)
        except BrokerUnavailable as exc:
            raise _not_archived() from exc
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting((room, position), message, stored))
        self._arrived.set()
        await stored

    async def _store_waiting(self) -> None:
        """Store in one transaction at a time. Messages that arrive meanwhile form the next."""
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:_STORE_BATCH], self._waiting[_STORE_BATCH:]
            if not self._waiting:
                self._arrived.clear()
            missing = {waiting.place for waiting in batch}
            try:
                missing = await apart(self._store(batch))
            except (PostgresUnavailable, TimeoutError):
                pass
            except Exception:
                log.exception("archive_store_failed")
            finally:
                for waiting in batch:
                    waiting.settle(waiting.place in missing)

    async def _store(self, batch: list[_Waiting]) -> set[_Place]:
        """Store the messages; returns those that Postgres still does not have."""
        async with self._postgres.connection() as connection:
            refused = await _insert(connection, [waiting.message for waiting in batch if waiting.message is not None])
            missing = {_place(message) for message in refused}
            # Redis trims only archived messages from a log, but may have lost the tail of the log.
            unseen = {waiting.place for waiting in batch if waiting.message is None}
            if unseen:
                columns = zip(*((room, *position) for room, position in unseen), strict=True)
                there = await connection.fetch(_THERE, *map(list, columns))
                missing |= unseen - {(room, Position(epoch, seq)) for room, epoch, seq in there}
        return missing


async def _insert(connection: Any, messages: Sequence[Message]) -> list[Message]:
    """Insert in one transaction. Returns the messages that Postgres always refuses."""
    try:
        await connection.execute(_INSERT, *_columns(messages))
    except REFUSED as exc:
        if len(messages) == 1:
            [message] = messages
            epoch, seq = message.position
            log.error("archive_refused", shard=shard_of(message.room), epoch=epoch, seq=seq, error=type(exc).__name__)
            return [message]
        middle = len(messages) // 2
        return [*await _insert(connection, messages[:middle]), *await _insert(connection, messages[middle:])]
    return []


def _columns(messages: Iterable[Message]) -> list[list[Any]]:
    # All workers insert in the same order, so that no two of them deadlock.
    rows = [
        (message.room, *message.position, message.user, message.ts, message.data.decode())
        for message in sorted(messages, key=_place)
    ]
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _column in range(6)]


def _place(message: Message) -> _Place:
    return message.room, message.position


def _not_archived() -> NotArchived:
    return NotArchived("published, but not in Postgres yet; repeat with the same id for the acknowledgement")
