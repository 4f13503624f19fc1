# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Rollout: a change of the workers, from the lock to the last one."""

from __future__ import annotations

from .panels import Dashboard, Logs, Number, Panel, Query, States
from .shared import ERRORS_BY_CODE, PUBLISH_TO_DELIVER, READINESS

DASHBOARD = Dashboard(
    "ws-rollout",
    "Rollout",
    "Workers that are replaced one after the other, and what their clients notice of it.",
    (
        (
            "Now",
            (
                Number(
                    "Workers ready",
                    "One at a time may be missing.",
                    "short",
                    (Query("fleet:ws_workers_ready:sum", "ready"),),
                    runbook="WsFleetBelowQuorum",
                    width=6,
                ),
                Number(
                    "Draining",
                    "Workers that somebody wants empty.",
                    "short",
                    (Query("sum(ws_draining)", "draining"),),
                    runbook="WsDrainDoesNotEnd",
                    width=6,
                ),
                Number(
                    "Youngest worker",
                    "The time since the last of them started.",
                    "s",
                    (Query('time() - max(process_start_time_seconds{job="ws_server"})', "age"),),
                    width=6,
                ),
                Number(
                    "Releases",
                    "How many workers run each. Two, for as long as a rollout takes; after it, one.",
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
                    "From the begin of a drain until it is taken back.",
                    "none",
                    (Query("ws_draining", "{{host}} {{worker}}"),),
                    texts=((0, "serves", "green"), (1, "draining", "orange")),
                    runbook="WsDrainDoesNotEnd",
                ),
                Panel(
                    "Connections by worker",
                    "Those of the worker whose turn it is go to the others, and come back by and by.",
                    "short",
                    (Query("worker:ws_connections:sum", "{{host}} {{worker}}"),),
                    stacked=True,
                ),
                Panel(
                    "Age",
                    "The time since a worker started: it falls to 0 when its turn comes.",
                    "s",
                    (Query('time() - process_start_time_seconds{job="ws_server"}', "{{host}} {{worker}}"),),
                ),
                Panel(
                    "Workers by release",
                    "The new release takes over from the old one; in a rollback it is the other way round.",
                    "short",
                    (Query("count by (version) (ws_build_info)", "{{version}}"),),
                    stacked=True,
                ),
            ),
        ),
        (
            "What clients notice",
            (
                Panel(
                    "Sent on",
                    "Connections ended, by close code, and requests to connect. A drain spreads both over its window: who follows its hint ends"
                    " with 1000, who does not with 1001.",
                    "ops",
                    (
                        Query("sum by (code) (rate(ws_closes_total[$__rate_interval]))", "ended with {{code}}"),
                        Query("fleet:ws_handshakes:rate5m", "let in"),
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
                    "Gaps that clients were told of: messages that the rooms' logs had no more. A rollout makes none.",
                    "short",
                    (Query("sum(increase(ws_gaps_total[5m]))", "in 5 minutes"),),
                ),
                Panel(
                    "Refused",
                    "Requests to connect that were refused, by status. A draining worker's 503 makes nginx ask another.",
                    "ops",
                    (Query("fleet:ws_handshakes_refused:rate5m", "{{status}}"),),
                ),
            ),
        ),
        (
            "What the workers and the edges say",
            (
                Logs(
                    "Journal",
                    "Lines of the workers and of the edges' watchers, but for those of the level debug.",
                    "none",
                    (Query('{unit=~"ws-server@.*|ws-edge-watcher.service", level!="debug"}', ""),),
                ),
            ),
        ),
    ),
    logs=True,
)
