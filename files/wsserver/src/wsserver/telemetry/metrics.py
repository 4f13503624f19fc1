# SPDX-License-Identifier: MIT
"""The metrics, each defined once. Labels never carry users or rooms: their number has no bound."""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

# A second series for each counter and histogram, which nothing here reads.
disable_created_metrics()  # type: ignore[no-untyped-call]

ACTIVE_CONNECTIONS = Gauge("ws_active_connections", "Authenticated WebSocket connections now open.")
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
READY = Gauge("ws_ready", "1 while new connections are welcome.")
HANDSHAKES_REFUSED = Counter("ws_handshakes_refused", "Upgrade requests refused, by HTTP status.", ["status"])
ROOM_REPAIRS = Counter("ws_room_repairs", "Times a room read missing messages from its log.")


def exposition() -> bytes:
    """The Prometheus text format, process metrics included."""
    return generate_latest(REGISTRY)
