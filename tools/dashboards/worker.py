# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Worker: the activity and the log of one worker."""

from __future__ import annotations

from .panels import Dashboard, Logs, Panel, Query, Variable

_OF = '{job="ws_server", host=~"$host", worker=~"$worker"'
ONE = _OF + "}"
_NAME = "{{host}} {{worker}}"


def _rate(metric: str, more: str = "") -> str:
    return f"rate({metric}{_OF}{more}}}[$__rate_interval])"


def _median_and_p99(metric: str) -> tuple[Query, Query]:
    buckets = f"sum by (le, host, worker) ({_rate(metric + '_bucket')})"
    return (
        Query(f"histogram_quantile(0.5, {buckets})", f"{_NAME} p50"),
        Query(f"histogram_quantile(0.99, {buckets})", f"{_NAME} p99"),
    )


DASHBOARD = Dashboard(
    "ws-worker",
    "Worker",
    "The activity of one worker, or of several for comparison: choose them above.",
    (
        (
            "Clients",
            (
                Panel(
                    "Connections",
                    "Open WebSockets and event streams (SSE).",
                    "short",
                    (
                        Query(f"ws_active_connections{ONE}", f"{_NAME} WebSockets"),
                        Query(f"ws_event_streams{ONE}", f"{_NAME} event streams"),
                    ),
                    runbook="WsConnectionsNearCap",
                ),
                Panel(
                    "Connections ended",
                    "By close code: 1000 by the client, 1001 a drain or a leaving client, 1006 none, 1008 not allowed, 1013 too slow.",
                    "ops",
                    (Query(f"sum by (host, worker, code) ({_rate('ws_closes_total')})", f"{_NAME}: {{{{code}}}}"),),
                ),
                Panel(
                    "Tokens and tickets",
                    "Requests to connect, by the outcome for their token.",
                    "ops",
                    (Query(f"sum by (host, worker, outcome) ({_rate('ws_auth_total')})", f"{_NAME}: {{{{outcome}}}}"),),
                ),
                Panel(
                    "Limits reached",
                    "By limit: docs/settings.md describes each. slow_client is a client that was closed because it did not read.",
                    "ops",
                    (Query(f"sum by (host, worker, limit) ({_rate('ws_limited_total')})", f"{_NAME}: {{{{limit}}}}"),),
                    runbook="WsSlowConsumers",
                ),
                Panel(
                    "Resumed",
                    "Joins with a position. Not recovered: the room's log no longer had the position, which the client was told.",
                    "ops",
                    (
                        Query(
                            f"sum by (host, worker, recovered) ({_rate('ws_resumes_total')})",
                            f"{_NAME}: recovered {{{{recovered}}}}",
                        ),
                    ),
                ),
                Panel(
                    "Server API",
                    "Requests of backends, by route and status.",
                    "ops",
                    (
                        Query(
                            f"sum by (route, status) ({_rate('ws_api_requests_total')})",
                            "{{route}} {{status}}",
                        ),
                    ),
                ),
            ),
        ),
        (
            "Messages",
            (
                Panel(
                    "In and out",
                    "Messages from clients, and room messages written to clients.",
                    "ops",
                    (
                        Query(_rate("ws_messages_in_total"), f"{_NAME} in"),
                        Query(_rate("ws_messages_out_total"), f"{_NAME} out"),
                    ),
                ),
                Panel(
                    "Fan-out",
                    "The average number of members of this worker that get a message.",
                    "short",
                    (Query(f"{_rate('ws_room_fan_out_sum')} / {_rate('ws_room_fan_out_count')}", _NAME),),
                ),
                Panel(
                    "Publish to deliver",
                    "From the arrival of a publish at its worker to this worker's last write of the message.",
                    "s",
                    _median_and_p99("ws_publish_to_deliver_seconds"),
                    runbook="WsDeliverySlow",
                    limit=0.25,
                    exemplars=True,
                ),
                Panel(
                    "Round trip to Redis",
                    "The time of a batch of publishes.",
                    "s",
                    _median_and_p99("ws_broker_publish_seconds"),
                ),
                Panel(
                    "Rooms",
                    "Rooms that have, or recently had, members on this worker.",
                    "short",
                    (Query(f"ws_rooms{ONE}", _NAME),),
                ),
                Panel(
                    "Repairs and gaps",
                    "Rooms that read missing messages from their log, and gaps reported to clients: messages that the log no longer had.",
                    "ops",
                    (
                        Query(_rate("ws_room_repairs_total"), f"{_NAME} repairs"),
                        Query(_rate("ws_gaps_total"), f"{_NAME} gaps"),
                        Query(_rate("ws_message_drops_total"), f"{_NAME} not delivered live"),
                    ),
                    runbook="WsMessageDrops",
                ),
            ),
        ),
        (
            "The process",
            (
                Panel(
                    "CPU",
                    "The share of one core, which is the maximum of a worker.",
                    "percentunit",
                    (Query(_rate("process_cpu_seconds_total"), _NAME),),
                ),
                Panel(
                    "Event loop lag",
                    "The delay of the loop's tick, measured once a second.",
                    "s",
                    _median_and_p99("ws_event_loop_lag_seconds"),
                    runbook="WsEventLoopLag",
                    limit=0.1,
                ),
                Panel(
                    "Memory",
                    "Resident memory.",
                    "bytes",
                    (Query(f"process_resident_memory_bytes{ONE}", _NAME),),
                ),
                Panel(
                    "Files",
                    "Open files; each connection is one.",
                    "short",
                    (Query(f"process_open_fds{ONE}", _NAME),),
                    runbook="WsDescriptorsNearLimit",
                ),
                Panel(
                    "Archive",
                    "Messages that this worker moves to Postgres, and waiting messages.",
                    "short",
                    (
                        Query(_rate("ws_archive_rows_total"), f"{_NAME} rows a second"),
                        Query(f"ws_archive_pending{ONE}", f"{_NAME} waiting"),
                    ),
                    runbook="WsArchiveLag",
                ),
                Panel(
                    "Redis and Postgres from the worker",
                    "1 while Redis and Postgres answer.",
                    "none",
                    (
                        Query(f"ws_broker_available{ONE}", f"{_NAME} Redis"),
                        Query(f"ws_archive_available{ONE}", f"{_NAME} Postgres"),
                    ),
                    runbook="WsWorkerNotReady",
                ),
            ),
        ),
        (
            "The log",
            (
                Logs(
                    "Journal",
                    "The workers' log, with one JSON object per line. A line with a trace links to the trace.",
                    "none",
                    (Query('{host=~"$host", unit=~"ws-server@($worker)[.]service"}', ""),),
                ),
            ),
        ),
    ),
    (Variable("host", "ws_ready"), Variable("worker", "ws_ready")),
    logs=True,
)
