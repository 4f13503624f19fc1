# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""What watches a fleet: Prometheus and Alertmanager, asked on their own host."""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import urlencode

from fleet import BACKEND, Fleet, eventually

# Several times as fast, and no patience. (Not faster: the exporter takes a second to see that Postgres is away.) What the alerts look for stays as it is.
HURRY = r"""
set -e
rm -rf /run/ws-unhurried
cp -a /etc/prometheus /run/ws-unhurried
sed -E -i 's/^(  scrape_interval|  scrape_timeout|  evaluation_interval): .*/\1: 3s/' /etc/prometheus/prometheus.yml
sed -E -i 's/^( +for| +interval): .*/\1: 2s/' /etc/prometheus/rules/*.yml
promtool check config /etc/prometheus/prometheus.yml
systemctl reload prometheus
"""
REST = r"""
cp -a /run/ws-unhurried/prometheus.yml /run/ws-unhurried/rules /etc/prometheus/
rm -r /run/ws-unhurried
systemctl reload prometheus
"""


class Observer:
    def __init__(self, fleet: Fleet, told: dict[str, str]) -> None:
        self.host = told["host"]
        self._fleet = fleet
        self._told = told

    def ssh(self, command: str) -> str:
        return self._fleet.ssh(self.host, command)

    def _ask(self, url: str) -> Any:
        request = shlex.quote(json.dumps(["GET", url, {}, None]))
        status, answer = json.loads(self.ssh(f"python3 -c {shlex.quote(BACKEND)} {request}"))
        assert status == 200, answer
        return answer

    def prometheus(self, path: str, **parameters: str) -> Any:
        return self._ask(f"{self._told['prometheus']}/api/v1/{path}?{urlencode(parameters)}")["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant vector, each with its labels and its value."""
        result: list[dict[str, Any]] = self.prometheus("query", query=expression)["result"]
        return result

    def alerts(self) -> dict[str, dict[str, str]]:
        """What Alertmanager has now, suppressed or not: each alert's name and annotations."""
        found = self._ask(f"{self._told['alertmanager']}/api/v2/alerts")
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in found}

    def raised(self, *alerts: str, within: float = 60) -> None:
        """Wait until all are raised."""
        waited = eventually(lambda: self.alerts().keys() >= set(alerts), within, f"{', '.join(alerts)} raised")
        annotations = self.alerts()
        for alert in alerts:
            print(f"{alert} within {waited:.1f} s: {annotations[alert]['summary']}")
            assert annotations[alert]["runbook_url"].endswith(f"/{alert}.md")

    def cleared(self, *alerts: str, within: float = 90) -> None:
        """Wait until none of them is."""
        waited = eventually(lambda: not self.alerts().keys() & set(alerts), within, f"{', '.join(alerts)} cleared")
        print(f"cleared within {waited:.1f} s")
