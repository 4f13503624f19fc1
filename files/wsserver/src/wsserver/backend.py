# SPDX-License-Identifier: MIT
"""What keeps the rooms: Redis and Postgres for a fleet, this process's memory for one worker that forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from wsserver.archive import Archive
from wsserver.auth import TicketStore
from wsserver.broker import Broker
from wsserver.broker.memory import MemoryBroker
from wsserver.broker.memory_tally import MemoryPresence, MemoryTally
from wsserver.broker.memory_tickets import MemoryTickets
from wsserver.broker.redis.archive_stream import ArchiveStream
from wsserver.broker.redis.broker import RedisBroker
from wsserver.broker.redis.connection import RedisAddress
from wsserver.broker.redis.presence import RedisPresence
from wsserver.broker.redis.rates import RedisRates
from wsserver.broker.redis.tally import RedisTally
from wsserver.broker.redis.tickets import RedisTickets
from wsserver.history import History
from wsserver.postgres import Postgres
from wsserver.presence import Presence
from wsserver.quotas import Quotas
from wsserver.rates import PublishRates, RateStore
from wsserver.settings import Settings
from wsserver.status import ArchiveStatus
from wsserver.tally import TallyStore


@dataclass(frozen=True)
class Backend:
    broker: Broker
    presence: Presence
    quotas: Quotas
    tickets: TicketStore
    history: History
    archive: Archive | None

    @property
    def archive_status(self) -> ArchiveStatus | None:
        return self.archive.status if self.archive is not None else None

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run, until cancelled, beside the broker."""
        work = [self.presence.run(), self.quotas.run()]
        return work if self.archive is None else [*work, self.archive.run()]

    async def stop(self) -> None:
        """After all of that was cancelled."""
        await asyncio.gather(self.presence.stop(), self.quotas.stop())


def in_redis(settings: Settings) -> Backend:
    password = settings.redis_password.get_secret_value() if settings.redis_password is not None else None
    address = RedisAddress(settings.redis_url, settings.redis_username, password)
    postgres = Postgres(settings.postgres_dsn.get_secret_value()) if settings.postgres_dsn is not None else None
    broker = RedisBroker(address, settings.room_log_length, settings.room_ttl_s, archive=postgres is not None)
    archive = None
    if postgres is not None:
        stream = ArchiveStream(address, settings.room_log_length)
        archive = Archive(postgres, stream, broker, settings.archive_retention_days)
    return Backend(
        broker=broker,
        presence=Presence(RedisPresence(address)),
        quotas=_quotas(settings, RedisTally(address), RedisRates(address)),
        tickets=RedisTickets(address),
        history=History(broker, postgres),
        archive=archive,
    )


def in_memory(settings: Settings) -> Backend:
    broker = MemoryBroker(settings.room_log_length)
    return Backend(
        broker=broker,
        presence=Presence(MemoryPresence(broker.tell_member)),
        quotas=_quotas(settings, MemoryTally(), None),
        tickets=MemoryTickets(),
        history=History(broker, None),
        archive=None,
    )


def _quotas(settings: Settings, connections: TallyStore, rates: RateStore | None) -> Quotas:
    publishes = PublishRates(settings.user_messages_per_s, rates)
    return Quotas(connections, publishes, settings.max_connections_per_user, settings.max_connections_per_ip)
