# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Fleet: is the service well, and if not, which worker is not."""

from __future__ import annotations

from .panels import Dashboard, Number, Panel, Query, States
from .shared import ERRORS_BY_CODE, PUBLISH_TO_DELIVER, READINESS

DASHBOARD = Dashboard(
    "ws-fleet",
    "Fleet",
    "Connections, rates, latency and saturation of all workers. Start here.",
    (
        (
            "Now",
            (
                Number(
                    "Workers ready",
                    "The share of the workers that let clients in, of those that nobody has drained. One that does not answer counts as not ready.",
                    "percentunit",
                    (Query("fleet:ws_workers_ready:ratio", "ready"),),
                    runbook="WsFleetBelowQuorum",
                    limit=0.51,
                    low=True,
                ),
                Number(
                    "Connections",
                    "WebSockets and event streams that are open, on all workers.",
                    "short",
                    (Query("fleet:ws_connections:sum", "connections"),),
                ),
                Number(
                    "Deliveries",
                    "Room messages written to clients each second: one for each message and client.",
                    "ops",
                    (Query("fleet:ws_messages_out:rate5m", "deliveries"),),
                ),
                Number(
                    "Publish to deliver, p99",
                    "From a publish reaching its worker to a worker's last write of it.",
                    "s",
                    (Query("fleet:ws_publish_to_deliver_seconds:p99_5m", "p99"),),
                    runbook="WsDeliverySlow",
                    limit=0.25,
                ),
                Number(
                    "Commands failed",
                    "The share of the clients' commands that failed by no fault of theirs, over an hour. One in a thousand may.",
                    "percentunit",
                    (Query("fleet:ws_commands_failed:ratio_rate1h", "failed"),),
                    runbook="WsErrorBudgetBurnFast",
                    limit=0.001,
                ),
                Number(
                    "Archive lag",
                    "The age of the oldest message that waits for Postgres.",
                    "s",
                    (Query("fleet:ws_archive_lag_seconds:max", "lag"),),
                    runbook="WsArchiveLag",
                    limit=60,
                ),
            ),
        ),
        (
            "Traffic",
            (
                Panel(
                    "Connections by worker",
                    "WebSockets and event streams that are open. A worker that is drained falls to 0, the others take its clients.",
                    "short",
                    (Query("worker:ws_connections:sum", "{{host}} {{worker}}"),),
                    runbook="WsConnectionsNearCap",
                    stacked=True,
                ),
                Panel(
                    "Messages",
                    "What clients send, and what is written to them.",
                    "ops",
                    (
                        Query("fleet:ws_messages_in:rate5m", "in"),
                        Query("fleet:ws_messages_out:rate5m", "out"),
                    ),
                ),
                Panel(
                    "Requests to connect",
                    "Let in, and refused by status: 401 and 403 for their token, 429 for a limit, 503 as a worker is not ready.",
                    "ops",
                    (
                        Query("fleet:ws_handshakes:rate5m", "let in"),
                        Query("fleet:ws_handshakes_refused:rate5m", "refused with {{status}}"),
                    ),
                ),
            ),
        ),
        (
            "Latency",
            (
                PUBLISH_TO_DELIVER,
                Panel(
                    "Publish to deliver by worker, p99",
                    "One worker alone: it is slow. All: look at Redis, or at what is published.",
                    "s",
                    (Query("worker:ws_publish_to_deliver_seconds:p99_5m", "{{host}} {{worker}}"),),
                    runbook="WsDeliverySlow",
                ),
                Panel(
                    "Round trip to Redis, p99",
                    "Of a batch of publishes, with the write to Redis' disk in it.",
                    "s",
                    (Query("fleet:ws_broker_publish_seconds:p99_5m", "p99"),),
                ),
            ),
        ),
        (
            "Errors",
            (
                Panel(
                    "Error budget",
                    "The share of commands that failed, in windows. At 0.1 % the month's budget lasts the month; at 1.44 % two days.",
                    "percentunit",
                    (
                        Query("fleet:ws_commands_failed:ratio_rate5m", "5 minutes"),
                        Query("fleet:ws_commands_failed:ratio_rate1h", "1 hour"),
                        Query("fleet:ws_commands_failed:ratio_rate6h", "6 hours"),
                    ),
                    runbook="WsErrorBudgetBurnSlow",
                    limit=0.001,
                ),
                ERRORS_BY_CODE,
                Panel(
                    "Not delivered live",
                    "Messages that slow clients get from the room's log when they read again.",
                    "ops",
                    (Query("worker:ws_message_drops:rate5m", "{{host}} {{worker}}"),),
                    runbook="WsMessageDrops",
                ),
            ),
        ),
        (
            "Saturation",
            (
                Panel(
                    "CPU by worker",
                    "Of one core: a worker is one process with one event loop, and 100 % is all that it can have.",
                    "percentunit",
                    (Query("worker:process_cpu_seconds:rate5m", "{{host}} {{worker}}"),),
                ),
                Panel(
                    "Event loop lag, p99",
                    "How late the loop was for its tick. Everything that a worker does waits that long.",
                    "s",
                    (Query("worker:ws_event_loop_lag_seconds:p99_5m", "{{host}} {{worker}}"),),
                    runbook="WsEventLoopLag",
                    limit=0.1,
                ),
                Panel(
                    "Memory by worker",
                    "Resident memory of each process.",
                    "bytes",
                    (Query('process_resident_memory_bytes{job="ws_server"}', "{{host}} {{worker}}"),),
                ),
                Panel(
                    "Connections of those allowed",
                    "The share of a worker's connections in use; at 100 % it answers 429.",
                    "percentunit",
                    (Query("worker:ws_connections:ratio", "{{host}} {{worker}}"),),
                    runbook="WsConnectionsNearCap",
                    limit=0.85,
                ),
                Panel(
                    "Files of those allowed",
                    "The share of the files that a worker may open. Each connection is one.",
                    "percentunit",
                    (Query("worker:process_open_fds:ratio", "{{host}} {{worker}}"),),
                    runbook="WsDescriptorsNearLimit",
                    limit=0.8,
                ),
            ),
        ),
        (
            "The workers",
            (
                States(
                    "Answers",
                    "Whether a worker answers Prometheus.",
                    "none",
                    (Query('up{job="ws_server"}', "{{host}} {{worker}}"),),
                    runbook="WsWorkerDown",
                    texts=((0, "down", "red"), (1, "up", "green")),
                ),
                READINESS,
            ),
        ),
    ),
)
