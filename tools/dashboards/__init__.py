# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Grafana's dashboards, written down once: python -m dashboards makes the JSON that the role grafana installs."""

from __future__ import annotations

from . import edge, fleet, host, rollout, stores, worker

DASHBOARDS = [fleet.DASHBOARD, worker.DASHBOARD, edge.DASHBOARD, stores.DASHBOARD, host.DASHBOARD, rollout.DASHBOARD]
