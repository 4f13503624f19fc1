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
from wsserver.runtime.slices import Slices
from wsserver.runtime.turns import TurnQueue

# The end of a connection takes two calls: it leaves its rooms, and is counted and logged.
_DEPARTURES_PER_TURN = 100
# The commands of all clients hold the event loop for so long at most, besides one command.
_COMMANDS_S = 0.002


@dataclass(slots=True)
class SessionContext:
    """`commands`: the time in which sessions carry out commands. `departures`: what is left to do
    for connections that have ended: thousands may end at once.
    """

    authenticator: Authenticator
    hub: Hub
    writer: BatchWriter
    publisher: Publisher
    presence: Presence
    history: History
    quotas: Quotas
    limits: ConnectionLimits
    commands: Slices = field(default_factory=lambda: Slices(_COMMANDS_S))
    departures: TurnQueue = field(default_factory=lambda: TurnQueue(_DEPARTURES_PER_TURN))
