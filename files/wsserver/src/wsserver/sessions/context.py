# SPDX-License-Identifier: MIT
"""The objects that all sessions of one worker share."""

from __future__ import annotations

from dataclasses import dataclass

from wsserver.archive.history import History
from wsserver.auth import Authenticator
from wsserver.limits.connection import ConnectionLimits
from wsserver.limits.quotas import Quotas
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.hub import Hub
from wsserver.rooms.presence import Presence
from wsserver.rooms.publisher import Publisher


@dataclass(slots=True)
class SessionContext:
    authenticator: Authenticator
    hub: Hub
    writer: BatchWriter
    publisher: Publisher
    presence: Presence
    history: History
    quotas: Quotas
    limits: ConnectionLimits
