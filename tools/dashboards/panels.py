# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The parts of a dashboard, and their JSON for Grafana.

Only values that differ from Grafana's defaults are written, so that the diff of a dashboard is
readable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# The role grafana replaces this with the operator's own URL.
RUNBOOKS = "https://github.com/selfhost-websocket/websocket/blob/main/docs/runbooks"
METRICS = {"type": "prometheus", "uid": "${metrics}"}
LOGS = {"type": "loki", "uid": "${logs}"}
_COLUMNS = 24


@dataclass(frozen=True)
class Query:
    """A query. `legend` is the name of a series, with its labels as {{label}}."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A chart of series over time.

    `unit` is Grafana's name; `runbook` is the alert on this value.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    runbook: str = ""
    limit: float | None = None  # red from here on: where the alert fires
    stacked: bool = False
    exemplars: bool = False
    width: int = 8

    kind = "timeseries"
    height = 8
    source = METRICS

    @property
    def colors(self) -> tuple[str, str]:
        """The colours below and above the limit."""
        return ("green", "red")

    def to_json(self) -> dict[str, Any]:
        return {
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": self.source,
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
            "targets": [self._target(query, ref) for query, ref in zip(self.queries, "ABCDEFGH", strict=False)],
            "links": [{"title": f"Runbook {self.runbook}", "url": f"{RUNBOOKS}/{self.runbook}.md", "targetBlank": True}]
            if self.runbook
            else [],
        }

    def _defaults(self) -> dict[str, Any]:
        custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": False}
        if self.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
        if self.limit is not None:
            custom["thresholdsStyle"] = {"mode": "dashed"}
        return {"unit": self.unit, "min": 0, "custom": custom, "thresholds": self._thresholds()}

    def _thresholds(self) -> dict[str, Any]:
        below, above = self.colors
        steps: list[dict[str, Any]] = [{"color": below, "value": None}]
        if self.limit is not None:
            steps.append({"color": above, "value": self.limit})
        return {"mode": "absolute", "steps": steps}

    def _options(self) -> dict[str, Any]:
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def _target(self, query: Query, ref: str) -> dict[str, Any]:
        return {
            "refId": ref,
            "datasource": self.source,
            "expr": query.expr,
            "legendFormat": query.legend,
            "editorMode": "code",
            "range": True,
            "exemplar": self.exemplars,
        }


@dataclass(frozen=True)
class Number(Panel):
    """The current value, in large print. `low`: values below the limit are bad."""

    low: bool = False
    width: int = 4

    kind = "stat"
    height = 4

    def _defaults(self) -> dict[str, Any]:
        return {"unit": self.unit, "thresholds": self._thresholds()}

    @property
    def colors(self) -> tuple[str, str]:
        return ("red", "green") if self.low else ("green", "red")

    def _options(self) -> dict[str, Any]:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "value_and_name" if any("{{" in query.legend for query in self.queries) else "value",
        }


@dataclass(frozen=True)
class States(Panel):
    """Series of states as coloured bars. `texts` has the meaning and colour of each value."""

    texts: tuple[tuple[int, str, str], ...] = ()
    width: int = 12

    kind = "state-timeline"

    def _defaults(self) -> dict[str, Any]:
        options = {str(value): {"text": text, "color": color} for value, text, color in self.texts}
        return {
            "unit": self.unit,
            "custom": {"fillOpacity": 80, "lineWidth": 0},
            "mappings": [{"type": "value", "options": options}],
            "thresholds": self._thresholds(),
        }

    def _options(self) -> dict[str, Any]:
        return {
            "mergeValues": True,
            "showValue": "never",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        }


@dataclass(frozen=True)
class Logs(Panel):
    """Lines of the journal, from Loki."""

    width: int = 24

    kind = "logs"
    source = LOGS

    def _defaults(self) -> dict[str, Any]:
        return {"unit": self.unit}

    def _options(self) -> dict[str, Any]:
        return {"showTime": True, "wrapLogMessage": True, "enableLogDetails": True, "sortOrder": "Descending"}

    def _target(self, query: Query, ref: str) -> dict[str, Any]:
        return {"refId": ref, "datasource": self.source, "expr": query.expr, "queryType": "range"}


@dataclass(frozen=True)
class Variable:
    """A choice at the top of the dashboard: the values of `label` in `series`."""

    label: str
    series: str

    def to_json(self) -> dict[str, Any]:
        query = f"label_values({self.series}, {self.label})"
        return {
            "type": "query",
            "name": self.label,
            "label": self.label.capitalize(),
            "datasource": METRICS,
            "definition": query,
            "query": {"query": query, "refId": self.label},
            "refresh": 2,
            "sort": 3,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


@dataclass(frozen=True)
class Dashboard:
    """A dashboard. `rows` has titles with their panels, from left to right."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[Variable, ...] = ()
    logs: bool = field(default=False, kw_only=True)

    def panels(self) -> list[Panel]:
        return [panel for _, panels in self.rows for panel in panels]

    def to_json(self) -> dict[str, Any]:
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["ws"],
            "schemaVersion": 39,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "links": [
                {"type": "dashboards", "title": "Dashboards", "tags": ["ws"], "asDropdown": True, "keepTime": True},
                {"type": "link", "title": "Runbooks", "url": RUNBOOKS, "targetBlank": True, "icon": "doc"},
            ],
            "annotations": {"list": _ANNOTATIONS},
            "templating": {
                "list": [
                    _source("metrics", "prometheus"),
                    *([_source("logs", "loki")] if self.logs else []),
                    *(variable.to_json() for variable in self.variables),
                ]
            },
            "panels": list(self._laid_out()),
        }

    def _laid_out(self) -> list[dict[str, Any]]:
        laid_out: list[dict[str, Any]] = []
        y = 0
        for title, panels in self.rows:
            place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
            laid_out.append({"type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []})
            x, y, tallest = 0, y + 1, 0
            for panel in panels:
                if x + panel.width > _COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
                laid_out.append({**panel.to_json(), "gridPos": place})
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest
        return [{"id": number, **panel} for number, panel in enumerate(laid_out, 1)]


def _source(name: str, kind: str) -> dict[str, Any]:
    # The role's data sources have these uids. The top of the dashboard offers other data sources,
    # if any.
    return {
        "type": "datasource",
        "name": name,
        "label": name.capitalize(),
        "query": kind,
        "current": {"text": kind.capitalize(), "value": f"ws-{kind}"},
        "hide": 0,
        "refresh": 1,
    }


# While a run holds the fleet's lock, workers may be replaced: a span from the first to the last
# sample.
_ANNOTATIONS: list[dict[str, Any]] = [
    {
        "name": "Rollouts",
        "enable": True,
        "iconColor": "purple",
        "datasource": METRICS,
        "expr": "ws_fleet_lock_since_timestamp_seconds > 0",
        "step": "15s",
        "titleFormat": "A run changes the fleet",
        "textFormat": "a run holds the fleet's lock, on {{host}}",
        "tagKeys": "host",
    },
    {
        "name": "Worker starts",
        "enable": True,
        "iconColor": "blue",
        "datasource": METRICS,
        "expr": 'process_start_time_seconds{job="ws_server"} * 1000',
        "useValueForTime": True,
        "step": "60s",
        "titleFormat": "A worker starts",
        "textFormat": "{{worker}} of {{host}}",
        "tagKeys": "host,worker",
    },
]
