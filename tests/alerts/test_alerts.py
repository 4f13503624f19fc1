# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""promtool checks the rules of the role prometheus.

Each alert fires when it should, and only then, and has a runbook.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
ROLE = ROOT / "roles/prometheus"
RUNBOOKS = ROOT / "docs/runbooks"
VARIABLES = yaml.safe_load((ROLE / "defaults/main.yml").read_text()) | {"prometheus_runbooks_url": "runbooks"}


def rendered(name: str, **delimiters: str) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, **delimiters)
    return environment.from_string((ROLE / f"templates/{name}.j2").read_text()).render(VARIABLES)


RULES = {
    "recording.yml": rendered("recording.yml"),
    "alerts.yml": rendered("alerts.yml", variable_start_string="[[", variable_end_string="]]"),
}
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES["alerts.yml"])["groups"] for rule in group["rules"]}


def promtool(*arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A directory with the rules as deployed."""
    for name, text in RULES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_rules_are_rules(rules: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES, cwd=rules)


@pytest.mark.parametrize("alert", ALERTS)
def test_the_alert_fires_only_when_it_should(alert: str, rules: Path) -> None:
    test = rules / f"{alert}.yml"
    test.write_text((HERE / f"{alert}.yml").read_text())
    checks: list[dict[str, Any]] = [
        check for case in yaml.safe_load(test.read_text())["tests"] for check in case["alert_rule_test"]
    ]
    assert {check["alertname"] for check in checks} == {alert}
    assert {bool(check.get("exp_alerts")) for check in checks} == {True, False}, (
        "each alert has a case that fires and one that does not"
    )
    promtool("test", "rules", test.name, cwd=rules)


@pytest.mark.parametrize("alert", ALERTS)
def test_the_alert_has_a_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"runbooks/{alert}.md"
    page = (RUNBOOKS / f"{alert}.md").read_text().splitlines()
    headings = [line for line in page if line.startswith("#")]
    assert headings == [f"# {alert}", "## Meaning", "## Look here", "## Do this"]


def test_every_test_and_runbook_belongs_to_an_alert() -> None:
    assert {path.stem for path in HERE.glob("*.yml")} == set(ALERTS)
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == set(ALERTS)
