# SPDX-License-Identifier: MIT
"""The components behind one worker: Redis and Postgres for a fleet, or the memory of one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from wsserver.archive.archiver import Archiver
from wsserver.archive.history import History
from wsserver.archive.marks import ArchiveMarks
from wsserver.archive.messages import ArchivedMessages
from wsserver.archive.postgres import Postgres
from wsserver.auth import TicketStore
from wsserver.cluster.leased_counts import CountStore
from wsserver.limits.quotas import Quotas, UserRates
from wsserver.limits.reports import ReportStore
from wsserver.limits.user_rate import UserRate
from wsserver.limits.user_total import UserTotal
from wsserver.rooms.broker import Broker
from wsserver.rooms.presence import Presence
from wsserver.runtime.pauses import Pauses
from wsserver.settings import Settings
from wsserver.status import ArchiveStatus
from wsserver.storage.memory.broker import MemoryBroker
from wsserver.storage.memory.counts import MemoryCounts, MemoryPresence
from wsserver.storage.memory.tickets import MemoryTickets
from wsserver.storage.redis.archive_stream import ArchiveStream
from wsserver.storage.redis.broker import RedisBroker
from wsserver.storage.redis.connection import COMMAND_TIMEOUT_S, RedisAddress
from wsserver.storage.redis.counts import RedisCounts
from wsserver.storage.redis.keys import LogLimits
from wsserver.storage.redis.memory import LogShedder
from wsserver.storage.redis.presence import RedisPresence
from wsserver.storage.redis.tickets import RedisTickets
from wsserver.storage.redis.user_rate import RedisRates

# A Redis that hangs is noticed within the deadline of one command.
_STOP_S = COMMAND_TIMEOUT_S + 1.0


@dataclass(frozen=True)
class Components:
    broker: Broker
    presence: Presence
    quotas: Quotas
    tickets: TicketStore
    history: History
    archive: Archiver | None
    pauses: Pauses

    @property
    def archive_status(self) -> ArchiveStatus | None:
        return self.archive.status if self.archive is not None else None

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """Coroutines to run beside the broker until cancelled."""
        work = [self.presence.run(), self.quotas.run()]
        return work if self.archive is None else [*work, self.archive.run()]

    async def stop(self) -> None:
        """Call after the background coroutines were cancelled.

        Takes at most _STOP_S: other workers correct the counts of a worker that did not tell Redis.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await asyncio.gather(self.presence.stop(), self.quotas.stop())


def in_redis(settings: Settings) -> Components:
    password = settings.redis_password.get_secret_value() if settings.redis_password is not None else None
    address = RedisAddress(settings.redis_url, settings.redis_username, password)
    postgres = Postgres(settings.postgres_dsn.get_secret_value()) if settings.postgres_dsn is not None else None
    log = LogLimits(settings.room_log_length, settings.room_log_bytes, settings.room_ttl_s)
    pauses = Pauses()
    broker = RedisBroker(address, log, ArchiveMarks(postgres) if postgres is not None else None, pauses)
    archive = None
    if postgres is not None:
        stream = ArchiveStream(address, log)
        archive = Archiver(postgres, stream, LogShedder(address), broker, settings.archive_retention_days)
    return Components(
        broker=broker,
        presence=Presence(RedisPresence(address)),
        quotas=_quotas(settings, RedisCounts(address), partial(RedisRates, address)),
        tickets=RedisTickets(address),
        history=History(broker, ArchivedMessages(postgres) if postgres is not None else None),
        archive=archive,
        pauses=pauses,
    )


def in_memory(settings: Settings) -> Components:
    broker = MemoryBroker(settings.room_log_length)
    return Components(
        broker=broker,
        presence=Presence(MemoryPresence(broker.tell_member)),
        quotas=_quotas(settings, MemoryCounts(), lambda _kind: None),
        tickets=MemoryTickets(),
        history=History(broker, None),
        archive=None,
        pauses=Pauses(),
    )


def _quotas(settings: Settings, connections: CountStore, store: Callable[[str], ReportStore | None]) -> Quotas:
    rates = UserRates(
        messages=UserRate(settings.user_messages_per_s, store("rate")),
        bytes=UserRate(settings.user_bytes_per_s, store("rate-bytes")),
        queries=UserRate(settings.user_queries_per_s, store("rate-queries")),
    )
    rooms = UserTotal(settings.max_rooms_per_user, store("rooms"))
    return Quotas(connections, rates, settings.max_connections_per_user, settings.max_connections_per_ip, rooms)
