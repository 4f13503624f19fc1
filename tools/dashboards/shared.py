# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Panels that more than one dashboard has."""

from __future__ import annotations

from .panels import Panel, Query, States

READINESS = States(
    "Readiness",
    "Whether a worker lets clients in.",
    "none",
    (Query("ws_ready", "{{host}} {{worker}}"),),
    texts=((0, "not ready", "red"), (1, "ready", "green")),
    runbook="WsWorkerNotReady",
)
PUBLISH_TO_DELIVER = Panel(
    "Publish to deliver",
    "From the arrival of a publish at its worker to a worker's last write of the message, over the whole fleet.",
    "s",
    (
        Query("fleet:ws_publish_to_deliver_seconds:p50_5m", "p50"),
        Query("fleet:ws_publish_to_deliver_seconds:p99_5m", "p99"),
    ),
    runbook="WsDeliverySlow",
    limit=0.25,
    exemplars=True,
)
ERRORS_BY_CODE = Panel(
    "Errors by code",
    "Error events sent to clients; docs/protocol.md has each code.",
    "ops",
    (Query("fleet:ws_errors:rate5m", "{{code}}"),),
    runbook="WsErrorBudgetBurnFast",
    stacked=True,
)
