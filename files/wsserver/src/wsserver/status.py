# SPDX-License-Identifier: MIT
"""What a worker says of itself: over the control socket, and to whoever has the key of the server API."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# drained: nobody is connected and nobody is let in, but the process goes on.
State = Literal["starting", "ready", "draining", "drained", "broker_unavailable"]


class BrokerStatus(Struct, frozen=True):
    available: bool


class ArchiveStatus(Struct, frozen=True):
    """`pending`: messages that this worker has yet to move to Postgres; `lag_s`: the age of the oldest, in seconds.

    Each worker moves those of some shards of rooms, for all.
    """

    available: bool
    pending: int
    lag_s: float


class Status(Struct, frozen=True):
    """`started_at`: Unix time in seconds. `drained_by`: who wants this worker empty. `archive`: None without Postgres.

    `connections` are those of users; `handshaking` and `closing` are on their way in and out.
    """

    version: str
    pid: int
    instance: str
    started_at: float
    uptime_s: float
    state: State
    drained_by: list[str]
    connections: int
    handshaking: int
    closing: int
    rooms: int
    broker: BrokerStatus
    archive: ArchiveStatus | None = None
