# SPDX-License-Identifier: MIT
"""What a worker says of itself: over the control socket, and to whoever has the key of the server API."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

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


class Histogram(Struct, frozen=True):
    """As in Prometheus: `counts` says how many were at most each of the `bounds`, and last how many there were."""

    bounds: list[float]
    counts: list[int]
    sum: float


class Counters(Struct, frozen=True):
    """What the process has counted since its start: who looks twice knows what came between. See `telemetry.metrics`.

    `clock_s` is a clock that nobody sets. The histograms are in seconds.
    """

    clock_s: float
    messages_in: int
    messages_out: int
    drops: int
    publish_to_deliver: Histogram
    event_loop_lag: Histogram
    broker_publish: Histogram


class Status(Struct, frozen=True):
    """`started_at`: Unix time in seconds. `drained_by`: who wants this worker empty. `archive`: None without Postgres.

    `connections` are those of users; `handshaking` and `closing` are on their way in and out. `counters`: only for who
    asks for the status over the control socket, and not in releases before `ws-server ctl top`.
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
    counters: Counters | UnsetType = UNSET
