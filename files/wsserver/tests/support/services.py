# SPDX-License-Identifier: MIT
"""The context of a session, with a hub and a broker of the test."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from wsserver.archive.history import History
from wsserver.auth import Authenticator, any_of
from wsserver.limits.connection import ConnectionLimits, Rate
from wsserver.limits.quotas import Quotas, UserRates
from wsserver.limits.user_rate import UserRate
from wsserver.limits.user_total import UserTotal
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.broker import Broker
from wsserver.rooms.hub import Hub
from wsserver.rooms.presence import Presence
from wsserver.rooms.publisher import Publisher
from wsserver.sessions.context import SessionContext
from wsserver.settings import Settings
from wsserver.storage.memory.counts import MemoryCounts, MemoryPresence
from wsserver.storage.memory.tickets import MemoryTickets

SECRET = "a secret of at least 32 characters"


def make_services(hub: Hub, broker: Broker, writer: BatchWriter, **changes: Any) -> SessionContext:
    """`changes`: settings. The limits are high by default."""
    far: dict[str, Any] = {
        "messages_per_s": 1e5,
        "bytes_per_s": 2**30,
        "user_messages_per_s": 1e6,
        "user_bytes_per_s": 2**30,
        "user_queries_per_s": 1e6,
        "max_rooms_per_user": 1_000_000,
    }
    settings = Settings(jwt_secret=SecretStr(SECRET), **{**far, **changes})
    rates = UserRates(
        UserRate(settings.user_messages_per_s, None),
        UserRate(settings.user_bytes_per_s, None),
        UserRate(settings.user_queries_per_s, None),
    )
    return SessionContext(
        authenticator=Authenticator(settings, MemoryTickets()),
        hub=hub,
        writer=writer,
        publisher=Publisher(broker, None, any_of(()), None),
        presence=Presence(MemoryPresence(hub.on_member)),
        history=History(broker, None),
        quotas=Quotas(MemoryCounts(), rates, 1000, 1000, UserTotal(settings.max_rooms_per_user, None)),
        limits=ConnectionLimits(
            Rate(settings.messages_per_s), Rate(settings.bytes_per_s), settings.max_rooms_per_connection
        ),
    )
