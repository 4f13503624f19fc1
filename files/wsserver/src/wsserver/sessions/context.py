# SPDX-License-Identifier: MIT
"""The objects that all sessions of one worker share."""

from __future__ import annotations

from dataclasses import dataclass, field

from wsserver.archive.history import History
from wsserver.auth import Authenticator
from wsserver.limits.connection import ConnectionLimits
from wsserver.limits.quotas import Quotas
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.hub import Hub
from wsserver.rooms.presence import Presence
from wsserver.rooms.publisher import Publisher
from wsserver.runtime.turns import TurnQueue

# The end of a connection takes two calls. With three rooms, 100 calls take some 5 ms.
_DEPARTURES_PER_TURN = 100


@dataclass(slots=True)
class SessionContext:
    """`departures`: what is left to do for connections that have ended: thousands may end at once."""

    authenticator: Authenticator
    hub: Hub
    writer: BatchWriter
    publisher: Publisher
    presence: Presence
    history: History
    quotas: Quotas
    limits: ConnectionLimits
    departures: TurnQueue = field(default_factory=lambda: TurnQueue(_DEPARTURES_PER_TURN))
