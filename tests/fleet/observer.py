# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A fleet's Prometheus and Alertmanager, queried on their own host."""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import urlencode

from fleet import Fleet, eventually

# On the host: prints the answers to all these URLs.
_ASK = """
import json, sys, urllib.request
print(json.dumps([json.load(urllib.request.urlopen(url, timeout=60)) for url in sys.argv[1:]]))
"""

# Scrapes and alerts are several times as fast, but not faster: the exporter takes a second to
# detect that Postgres is unavailable. The expressions of the alerts stay unchanged.
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

    def _ask(self, *urls: str) -> list[Any]:
        answers: list[Any] = json.loads(self.ssh(shlex.join(["python3", "-c", _ASK, *urls])))
        return answers

    def _prometheus_url(self, path: str, **parameters: str) -> str:
        return f"{self._told['prometheus']}/api/v1/{path}?{urlencode(parameters)}"

    def prometheus(self, path: str, **parameters: str) -> Any:
        [answer] = self._ask(self._prometheus_url(path, **parameters))
        return answer["data"]

    def query(self, *expressions: str) -> list[list[dict[str, Any]]]:
        """Return the instant vector of each expression: series with labels and value."""
        answers = self._ask(*(self._prometheus_url("query", query=expression) for expression in expressions))
        return [answer["data"]["result"] for answer in answers]

    def alerts(self) -> dict[str, dict[str, str]]:
        """Alertmanager's current alerts, even if suppressed: name and annotations."""
        [found] = self._ask(f"{self._told['alertmanager']}/api/v2/alerts")
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in found}

    def raised(self, *alerts: str, within: float = 60) -> None:
        """Wait until all these alerts are raised."""
        waited = eventually(lambda: self.alerts().keys() >= set(alerts), within, f"{', '.join(alerts)} raised", every=1)
        annotations = self.alerts()
        for alert in alerts:
            print(f"{alert} within {waited:.1f} s: {annotations[alert]['summary']}")
            assert annotations[alert]["runbook_url"].endswith(f"/{alert}.md")

    def cleared(self, *alerts: str, within: float = 90) -> None:
        """Wait until none of these alerts is raised."""
        waited = eventually(
            lambda: not self.alerts().keys() & set(alerts), within, f"{', '.join(alerts)} cleared", every=1
        )
        print(f"cleared within {waited:.1f} s")
