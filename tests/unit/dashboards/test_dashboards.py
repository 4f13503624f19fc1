# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The dashboards: tools/dashboards generates their JSON, and their queries use existing metrics."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from dashboards import DASHBOARDS
from dashboards.__main__ import FILES, text
from dashboards.panels import RUNBOOKS, Dashboard, Logs, Panel
from program import ROOT
from prometheus_client import REGISTRY
from ws_edge_watcher.metrics import Known, exposition
from wsserver.telemetry import metrics, otlp  # noqa: F401 - they define the workers' metrics

ROLE = ROOT / "roles/prometheus"
HERE = Path(__file__).parent
UNITS = {"none", "short", "percentunit", "s", "bytes", "Bps", "bps", "ops", "reqps"}
# Metrics of Prometheus' client libraries, the blackbox exporter, and the text file of the fleet's
# lock.
OTHERS = {
    "up", "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds",
    "probe_success", "probe_http_duration_seconds", "ws_fleet_lock_since_timestamp_seconds",
}  # fmt: skip


def rules(name: str, **delimiters: str) -> list[dict[str, Any]]:
    environment = jinja2.Environment(undefined=jinja2.Undefined, trim_blocks=True, **delimiters)
    groups = yaml.safe_load(environment.from_string((ROLE / f"templates/{name}.yml.j2").read_text()).render())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"] for rule in rules("recording")}
ALERTS = {rule["alert"] for rule in rules("alerts", variable_start_string="[[", variable_end_string="]]")}


def of_the_workers() -> set[str]:
    names = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return {name for name in names if name.startswith("ws_")}


def of_the_watcher() -> set[str]:
    return set(re.findall(r"^# TYPE (\w+)", exposition(Known(), 0).decode(), re.MULTILINE))


def of_the_exporters() -> set[str]:
    """Recorded answers of Debian's exporters. tests/fleet uses deployed exporters."""
    return {name for path in HERE.glob("exporters/*.txt") for name in path.read_text().split()}


KNOWN = RECORDED | of_the_workers() | of_the_watcher() | of_the_exporters() | OTHERS


def all_panels() -> list[tuple[Dashboard, Panel]]:
    return [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels()]


def queries() -> Iterator[tuple[str, str]]:
    """Each Prometheus query, as Grafana sends it with all values chosen."""
    for dashboard, panel in all_panels():
        if not isinstance(panel, Logs):
            for number, query in enumerate(panel.queries):
                yield f"{dashboard.uid}: {panel.title} {number}", sent(query.expr)
    for annotation in DASHBOARDS[0].to_json()["annotations"]["list"]:
        yield f"annotation {annotation['name']}", sent(annotation["expr"])
    for dashboard in DASHBOARDS:
        for variable in dashboard.variables:
            yield f"{dashboard.uid}: variable {variable.label}", variable.series


def sent(expr: str) -> str:
    expr = re.sub(r"\$(host|worker)", ".+", expr.replace("$__rate_interval", "1m"))
    assert "$" not in expr, expr
    return expr


def test_the_json_files_are_up_to_date():
    assert {path.name: path.read_text() for path in FILES.iterdir()} == {
        f"{dashboard.uid}.json": text(dashboard) for dashboard in DASHBOARDS
    }, "run: PYTHONPATH=tools python -m dashboards"


def test_each_dashboard_has_a_unique_name():
    assert len({dashboard.uid for dashboard in DASHBOARDS}) == len({d.title for d in DASHBOARDS}) == len(DASHBOARDS)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_a_dashboard(dashboard):
    contents = json.loads(text(dashboard))
    assert re.fullmatch(r"[a-z-]{1,40}", contents["uid"])
    assert contents["description"]
    ids = [panel["id"] for panel in contents["panels"]]
    assert ids == sorted(set(ids))
    sources = {one["name"]: one["query"] for one in contents["templating"]["list"] if one["type"] == "datasource"}
    assert sources == {"metrics": "prometheus"} | ({"logs": "loki"} if dashboard.logs else {})
    titles = [panel.title for panel in dashboard.panels()]
    assert len(titles) == len(set(titles))
    used = set(re.findall(r"\$\{?(\w+)", text(dashboard))) - {"__rate_interval", "__all"}
    assert used == {one["name"] for one in contents["templating"]["list"]}, "each choice is used, each used is there"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_no_panel_overlaps_another_or_leaves_the_grid(dashboard):
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.to_json()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize(("dashboard", "panel"), all_panels(), ids=lambda one: one.title)
def test_a_panel_has_a_title_a_unit_and_a_description(dashboard, panel):
    assert panel.title[0].isupper() or panel.title.startswith("nginx")
    assert panel.description.endswith(".")
    assert panel.unit in UNITS
    contents = panel.to_json()
    assert contents["fieldConfig"]["defaults"]["unit"] == panel.unit
    assert [target["refId"] for target in contents["targets"]] == list("ABCDEFGH")[: len(panel.queries)]
    for query in panel.queries:
        assert query.expr
        assert query.legend or isinstance(panel, Logs)
    if panel.runbook:
        assert panel.runbook in ALERTS
        assert contents["links"][0]["url"] == f"{RUNBOOKS}/{panel.runbook}.md"
    assert panel.limit is None or panel.runbook or panel.title == "Space used", "a limit is where an alert fires"


def test_each_alert_has_a_panel():
    assert {panel.runbook for _, panel in all_panels()} - {""} == ALERTS - {"WsTargetDown"}


def test_prometheus_can_parse_each_query(tmp_path):
    """promtool parses rules, so each query becomes a rule."""
    records = [{"record": f"query:{number}", "expr": expr} for number, (_, expr) in enumerate(queries())]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]}))
    done = subprocess.run(["promtool", "check", "rules", path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(records)} rules found" in done.stdout


@pytest.mark.parametrize(("where", "expr"), list(queries()), ids=lambda text: text[:60])
def test_each_metric_exists(where, expr):
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", "", bare)
    names = {
        name
        for name in re.findall(r"[a-zA-Z_:][\w:]*(?!\w|:|\s*\()", bare)
        if "_" in name or ":" in name or name == "up"
    }
    assert names, expr
    assert names <= KNOWN, names - KNOWN
