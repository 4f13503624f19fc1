# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Fleet: whether the service is healthy, and if not, which worker is not."""

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
                    "The share of ready workers, without draining ones. A worker that does not answer counts as not ready.",
                    "percentunit",
                    (Query("fleet:ws_workers_ready:ratio", "ready"),),
                    runbook="WsFleetBelowQuorum",
                    limit=0.51,
                    low=True,
                ),
                Number(
                    "Connections",
                    "Open WebSockets and event streams on all workers.",
                    "short",
                    (Query("fleet:ws_connections:sum", "connections"),),
                ),
                Number(
                    "Deliveries",
                    "Room messages written to clients per second: one for each message and client.",
                    "ops",
                    (Query("fleet:ws_messages_out:rate5m", "deliveries"),),
                ),
                Number(
                    "Publish to deliver, p99",
                    "From the arrival of a publish at its worker to a worker's last write of the message.",
                    "s",
                    (Query("fleet:ws_publish_to_deliver_seconds:p99_5m", "p99"),),
                    runbook="WsDeliverySlow",
                    limit=0.25,
                ),
                Number(
                    "Commands failed",
                    "The share of commands that failed without the client's fault, over an hour. The budget is one in a thousand.",
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
                    "Open WebSockets and event streams. A draining worker falls to 0, and the other workers take its clients.",
                    "short",
                    (Query("worker:ws_connections:sum", "{{host}} {{worker}}"),),
                    runbook="WsConnectionsNearCap",
                    stacked=True,
                ),
                Panel(
                    "Messages",
                    "Messages from clients, and messages written to clients.",
                    "ops",
                    (
                        Query("fleet:ws_messages_in:rate5m", "in"),
                        Query("fleet:ws_messages_out:rate5m", "out"),
                    ),
                ),
                Panel(
                    "Requests to connect",
                    "Accepted, and refused by status: 401 and 403 for the token, 429 for a limit, 503 for a worker that is not ready.",
                    "ops",
                    (
                        Query("fleet:ws_handshakes:rate5m", "accepted"),
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
                    "If only one worker is slow, check that worker. If all are slow, check Redis and the rate of publishes.",
                    "s",
                    (Query("worker:ws_publish_to_deliver_seconds:p99_5m", "{{host}} {{worker}}"),),
                    runbook="WsDeliverySlow",
                ),
                Panel(
                    "Round trip to Redis, p99",
                    "The time of a batch of publishes, including Redis' write to disk.",
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
                    "The share of failed commands, by window. At 0.1 % the monthly budget lasts a month; at 1.44 %, two days.",
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
                    "Messages that slow clients get later from the room's log.",
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
                    "The share of one core. A worker is one process with one event loop, so 100 % is the maximum.",
                    "percentunit",
                    (Query("worker:process_cpu_seconds:rate5m", "{{host}} {{worker}}"),),
                ),
                Panel(
                    "Event loop lag, p99",
                    "The delay of the loop's tick. Everything in the worker waits that long.",
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
                    "Connection limit used",
                    "The used share of a worker's connection limit. At 100 % the worker answers 429.",
                    "percentunit",
                    (Query("worker:ws_connections:ratio", "{{host}} {{worker}}"),),
                    runbook="WsConnectionsNearCap",
                    limit=0.85,
                ),
                Panel(
                    "File limit used",
                    "The used share of a worker's limit of open files. Each connection is one file.",
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
