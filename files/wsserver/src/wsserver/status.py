# SPDX-License-Identifier: MIT
"""The status of a worker, as the control socket and the server API report it."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

# drained: no client is connected and none is admitted, but the process runs on.
State = Literal["starting", "ready", "draining", "drained", "broker_unavailable"]


# Above this fullness of the broker, users get less, and the operator sees it.
NEARLY_FULL = 0.8


class BrokerStatus(Struct, frozen=True):
    """`fullness`: the used part of its memory, 0 to 1; 0 if its memory has no limit.

    `disk_full`: it cannot write to its disk.
    """

    available: bool
    fullness: float = 0.0
    disk_full: bool = False


class ArchiveStatus(Struct, frozen=True):
    """`pending`: messages that this worker has yet to move to Postgres; `lag_s`: the age of the
    oldest, in seconds.

    Each worker moves the messages of some shards, for all workers.
    """

    available: bool
    pending: int
    lag_s: float


class Histogram(Struct, frozen=True):
    """As in Prometheus: `counts` has the number of values up to each of the `bounds`, then the
    number of all values.
    """

    bounds: list[float]
    counts: list[int]
    sum: float


class Counters(Struct, frozen=True):
    """The counters of the process since its start; the difference of two readings is a rate.

    See `telemetry.metrics`.

    `clock_s` is monotonic. The histograms are in seconds.
    """

    clock_s: float
    messages_in: int
    messages_out: int
    drops: int
    publish_to_deliver: Histogram
    event_loop_lag: Histogram
    broker_publish: Histogram


class Status(Struct, frozen=True):
    """`started_at`: Unix time in seconds.

    `drained_by`: the holders of drains. `archive`: None without Postgres.

    `connections` are those of users; `handshaking` and `closing` are not among them.
    `descriptors_scarce`: the worker refuses new clients, because it needs its last file
    descriptors. Only the control socket reports `counters`, since the release of `ws-server ctl
    top`.
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
    descriptors_scarce: bool = False
    counters: Counters | UnsetType = UNSET
