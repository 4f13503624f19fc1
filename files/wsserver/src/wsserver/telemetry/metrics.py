# SPDX-License-Identifier: MIT
"""The metrics, each defined once. Labels never carry users or rooms: their number has no bound."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import choose_encoder

from wsserver import __version__

# These would be a second series for each counter and histogram, which no dashboard reads.
disable_created_metrics()  # type: ignore[no-untyped-call]

BUILD_INFO = Gauge("ws_build_info", "1, with the release that runs.", ["version"])
BUILD_INFO.labels(__version__).set(1)

# Connections and their messages.
ACTIVE_CONNECTIONS = Gauge("ws_active_connections", "Authenticated WebSocket connections now open.")
EVENT_STREAMS = Gauge("ws_event_streams", "Authenticated event streams (SSE) now open.")
MAX_CONNECTIONS = Gauge("ws_max_connections", "Connections and event streams that this worker may have.")
READY = Gauge("ws_ready", "1 while the worker accepts new connections.")
DRAINING = Gauge(
    "ws_draining", "1 from the start of a drain until its end: an operator or a rollout wants this worker empty."
)
AUTH = Counter("ws_auth", "Requests to connect, by the outcome of their token or ticket.", ["outcome"])
HANDSHAKES_REFUSED = Counter(
    "ws_handshakes_refused", "Requests to connect that were refused, by HTTP status.", ["status"]
)
CLOSES = Counter("ws_closes", "Connections ended, by close code (1006: without one).", ["code"])
LIMITED = Counter("ws_limited", "Times a limit was reached.", ["limit"])
ERRORS = Counter("ws_errors", "Error events sent to clients.", ["code"])
MESSAGES_IN = Counter("ws_messages_in", "Messages received from clients.")
MESSAGES_OUT = Counter("ws_messages_out", "Room messages written to clients (one per message and client).")
PUBLISH_TO_DELIVER = Histogram(
    "ws_publish_to_deliver_seconds",
    "From a publish reaching its worker to this worker's last write of it; once per message and worker.",
    buckets=[0.001 * 2**n for n in range(12)],
)
DROPS = Counter(
    "ws_message_drops",
    "Messages not delivered live because the client read too slowly; they are refilled from the room's log.",
)

# Rooms.
ROOMS = Gauge("ws_rooms", "Rooms that have, or just had, members on this worker.")
FAN_OUT = Histogram(
    "ws_room_fan_out",
    "Members on this worker that a message was delivered to live.",
    buckets=[10**n for n in range(6)],
)
RESUMES = Counter("ws_resumes", "Joins with a position, by whether the log continued from there.", ["recovered"])
GAPS = Counter("ws_gaps", "Gaps reported to clients: messages after their position no longer exist.")
ROOM_REPAIRS = Counter("ws_room_repairs", "Times a room read missing messages from its log.")

# The worker itself.
EVENT_LOOP_LAG = Histogram(
    "ws_event_loop_lag_seconds",
    "How late the event loop was for its tick, 20 times a second.",
    buckets=[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5],
)
PAUSES = Counter(
    "ws_pauses",
    "Times that the worker stood still for so long (stopped, or on a suspended machine) that it dropped its connections.",
)
BROKER_PUBLISH = Histogram(
    "ws_broker_publish_seconds",
    "Round trip of a batch of publishes to Redis.",
    buckets=[0.00025 * 2**n for n in range(14)],
)
BROKER_DATA_LOST = Counter(
    "ws_broker_data_lost",
    "Shards of Redis whose data was older, after a start of Redis, than this worker or Postgres knew it. Their rooms"
    " began new epochs.",
)
BROKER_AVAILABLE = Gauge("ws_broker_available", "1 while Redis answers.")

BROKER_DISK_FULL = Gauge(
    "ws_broker_disk_full", "1 while Redis cannot write to its disk, and refuses publishes and new rooms."
)
BROKER_MEMORY = Gauge("ws_broker_memory_ratio", "The used part of Redis's memory limit, 0 to 1.")

# The server API.
API_REQUESTS = Counter("ws_api_requests", "Requests to the server API, by route and HTTP status.", ["route", "status"])

# The archive.
ARCHIVE_PENDING = Gauge("ws_archive_pending", "Messages that wait for Postgres, in the shards that this worker moves.")
ARCHIVE_LAG = Gauge("ws_archive_lag_seconds", "Age of the oldest message that waits for Postgres, in the same shards.")
ARCHIVE_ROWS = Counter("ws_archive_rows", "Messages moved to Postgres.")
ARCHIVE_REFUSED = Counter("ws_archive_refused", "Messages that Postgres refused permanently and that were set aside.")
ARCHIVE_ERRORS = Counter("ws_archive_errors", "Attempts to move messages to Postgres that failed.")
ARCHIVE_WAITS = Counter(
    "ws_archive_waits", "Times that members had to wait for older messages because Postgres was unavailable."
)
ARCHIVE_AVAILABLE = Gauge("ws_archive_available", "1 while Postgres answers.")

ARCHIVE_SHED = Counter(
    "ws_archive_shed_logs", "Logs of rooms that Redis gave up, except for their newest message, to free memory."
)

# Counters shared by all workers; `tally` is presence or connections.
TALLY_UNTOLD = Gauge("ws_tally_untold", "Counts of this worker that Redis does not have yet.", ["tally"])
TALLY_GIVEN_UP = Counter(
    "ws_tally_given_up", "Times that other workers gave this worker up in a shard: it was paused or cut off.", ["tally"]
)
TALLY_REAPED = Counter(
    "ws_tally_reaped", "Counts of dead workers that this worker subtracted from the totals.", ["tally"]
)

# rate() does not see the first value of a series, so the series that alerts query exist from the
# start.
LIMITED.labels("slow_client")
for code in ("unavailable", "outcome_unknown", "not_archived", "broker_full", "broker_error", "internal"):
    ERRORS.labels(code)


def exposition(accept: str) -> tuple[bytes, str]:
    """All metrics, with those of the process, and their content type.

    Only OpenMetrics has exemplars.
    """
    try:
        generate, content_type = choose_encoder(accept)
    except (IndexError, TypeError, ValueError):  # The library trusts its input, such as a version that is no number.
        return generate_latest(REGISTRY), CONTENT_TYPE_PLAIN_0_0_4
    return generate(REGISTRY), content_type
