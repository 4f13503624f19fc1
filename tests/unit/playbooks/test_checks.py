# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Monitoring does not prevent a rollback: only site.yml, which deploys monitoring, checks it."""

from __future__ import annotations

import pytest
import yaml
from program import ROOT

PLAYBOOKS = ROOT / "playbooks"
OBSERVING = ["exporters", "prometheus", "loki", "tempo", "grafana", "alloy"]


def roles(part):
    plays = yaml.safe_load((PLAYBOOKS / "parts" / part).read_text())
    tasks = [task for play in plays for task in play["tasks"]]
    names = [task["ansible.builtin.include_role"]["name"] for task in tasks if "ansible.builtin.include_role" in task]
    return [name.removeprefix("selfhost.websocket.") for name in names]


def test_each_has_its_checks_in_one_of_the_parts():
    assert roles("observability_checks.yml") == OBSERVING
    assert not set(roles("checks.yml")) & set(OBSERVING)


def parts_of(path):
    """All parts that a playbook imports, directly or through another part."""
    for play in yaml.safe_load(path.read_text()):
        if "ansible.builtin.import_playbook" in play:
            part = (path.parent / play["ansible.builtin.import_playbook"]).resolve()
            yield part.relative_to(PLAYBOOKS).as_posix()
            yield from parts_of(part)


@pytest.mark.parametrize("playbook", sorted(path.stem for path in PLAYBOOKS.glob("*.yml")))
def test_only_site_checks_the_monitoring(playbook):
    parts = list(parts_of(PLAYBOOKS / f"{playbook}.yml"))
    assert parts.count("parts/checks.yml") == 1
    assert ("parts/observability_checks.yml" in parts) == (playbook == "site")
