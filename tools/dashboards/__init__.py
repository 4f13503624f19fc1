# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The source of Grafana's dashboards: python -m dashboards generates the role's JSON."""

from __future__ import annotations

from . import edge, fleet, host, rollout, stores, worker

DASHBOARDS = [fleet.DASHBOARD, worker.DASHBOARD, edge.DASHBOARD, stores.DASHBOARD, host.DASHBOARD, rollout.DASHBOARD]
