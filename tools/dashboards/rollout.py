# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Rollout: the replacement of the workers, from the lock to the last worker."""

from __future__ import annotations

from .panels import Dashboard, Logs, Number, Panel, Query, States
from .shared import ERRORS_BY_CODE, PUBLISH_TO_DELIVER, READINESS

DASHBOARD = Dashboard(
    "ws-rollout",
    "Rollout",
    "The replacement of workers, one after the other, and its effect on clients.",
    (
        (
            "Now",
            (
                Number(
                    "Workers ready",
                    "At most one worker may be missing at a time.",
                    "short",
                    (Query("fleet:ws_workers_ready:sum", "ready"),),
                    runbook="WsFleetBelowQuorum",
                    width=6,
                ),
                Number(
                    "Draining",
                    "Workers that are being drained.",
                    "short",
                    (Query("sum(ws_draining)", "draining"),),
                    runbook="WsDrainDoesNotEnd",
                    width=6,
                ),
                Number(
                    "Youngest worker",
                    "The time since the last worker started.",
                    "s",
                    (Query('time() - max(process_start_time_seconds{job="ws_server"})', "age"),),
                    width=6,
                ),
                Number(
                    "Releases",
                    "The number of workers of each release. There are two releases during a rollout, and one afterwards.",
                    "short",
                    (Query("count by (version) (ws_build_info)", "{{version}}"),),
                    runbook="WsRolloutLockHeld",
                    width=6,
                ),
            ),
        ),
        (
            "The workers",
            (
                READINESS,
                States(
                    "Drains",
                    "From the beginning of a drain to its end.",
                    "none",
                    (Query("ws_draining", "{{host}} {{worker}}"),),
                    texts=((0, "serves", "green"), (1, "draining", "orange")),
                    runbook="WsDrainDoesNotEnd",
                ),
                Panel(
                    "Connections by worker",
                    "The connections of a draining worker move to the others, and gradually come back.",
                    "short",
                    (Query("worker:ws_connections:sum", "{{host}} {{worker}}"),),
                    stacked=True,
                ),
                Panel(
                    "Age",
                    "The time since a worker started, which falls to 0 when the worker is replaced.",
                    "s",
                    (Query('time() - process_start_time_seconds{job="ws_server"}', "{{host}} {{worker}}"),),
                ),
                Panel(
                    "Workers by release",
                    "The new release replaces the old one; a rollback does the reverse.",
                    "short",
                    (Query("count by (version) (ws_build_info)", "{{version}}"),),
                    stacked=True,
                ),
            ),
        ),
        (
            "Effect on clients",
            (
                Panel(
                    "Reconnects",
                    "Ended connections by close code, and requests to connect. A drain spreads both over its window. A client that follows the"
                    " hint ends with 1000, any other client with 1001.",
                    "ops",
                    (
                        Query("sum by (code) (rate(ws_closes_total[$__rate_interval]))", "ended with {{code}}"),
                        Query("fleet:ws_handshakes:rate5m", "accepted"),
                    ),
                ),
                Panel(
                    "Resumed",
                    "Joins with a position. Recovered means that the client missed nothing.",
                    "ops",
                    (
                        Query(
                            "sum by (recovered) (rate(ws_resumes_total[$__rate_interval]))", "recovered: {{recovered}}"
                        ),
                    ),
                ),
                PUBLISH_TO_DELIVER,
                ERRORS_BY_CODE,
                Panel(
                    "Gaps",
                    "Gaps reported to clients: messages that the rooms' logs no longer had. A rollout causes none.",
                    "short",
                    (Query("sum(increase(ws_gaps_total[5m]))", "in 5 minutes"),),
                ),
                Panel(
                    "Refused",
                    "Refused requests to connect, by status. After a draining worker's 503, nginx tries another worker.",
                    "ops",
                    (Query("fleet:ws_handshakes_refused:rate5m", "{{status}}"),),
                ),
            ),
        ),
        (
            "Logs of the workers and the edges",
            (
                Logs(
                    "Journal",
                    "Lines of the workers and of the edge watchers, without the level debug.",
                    "none",
                    (Query('{unit=~"ws-server@.*|ws-edge-watcher.service", level!="debug"}', ""),),
                ),
            ),
        ),
    ),
    logs=True,
)
