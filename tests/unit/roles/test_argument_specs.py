# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The roles' argument_specs.yml match their variables and entry points."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from program import ROOT

from ansible_collections.selfhost.websocket.plugins.module_utils import _rules

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
# Playbooks include these; _common only has tasks for them.
PUBLIC = [role for role in ROLES if not role.startswith("_")]


def read(path: Path) -> dict[str, Any]:
    contents: dict[str, Any] = yaml.safe_load(path.read_text())
    return contents


def entry_points(role: str) -> dict[str, Any]:
    specs: dict[str, Any] = read(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    return specs


@pytest.mark.parametrize("role", PUBLIC)
def test_every_variable_is_described_with_the_default_that_it_has(role):
    options = entry_points(role)["main"]["options"]
    defaults = read(ROOT / "roles" / role / "defaults/main.yml")
    assert set(defaults) <= set(options)
    plain = {name: value for name, value in defaults.items() if "{{" not in str(value)}
    described = {
        name: options[name].get("default", plain[name] if options[name].get("required") else None) for name in plain
    }
    assert described == plain


@pytest.mark.parametrize("role", ROLES)
def test_every_entry_point_has_its_tasks(role):
    tasks = {path.stem for path in (ROOT / "roles" / role / "tasks").iterdir()}
    assert set(entry_points(role)) <= tasks


def test_playbooks_use_entry_points():
    used = set()
    for playbook in (ROOT / "playbooks").rglob("*.yml"):
        contents = playbook.read_text()
        used.update(re.findall(r"name: selfhost\.websocket\.(\w+)\n\s+tasks_from: (\w+)", contents))
        # The entry point that parts/replace.yml uses for its plan.
        used.update(("ws_server", tasks) for tasks in re.findall(r"^ +_fleet_plan: (\w+)", contents, re.MULTILINE))
    assert {("ws_server", tasks) for tasks in ("roll", "plan_update", "plan_restart", "plan_rollback")} <= used
    assert not {(role, tasks) for role, tasks in used if tasks not in entry_points(role)}


def test_the_check_of_names_accepts_variables_that_playbooks_pass():
    """An undocumented variable ws_server_… would stop the playbook that sets it."""
    documented = {name for role in ROLES for entry in entry_points(role).values() for name in entry.get("options", {})}
    for playbook in (ROOT / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(playbook.read_text()):
            given = play.get("vars", {}) if "ansible.builtin.import_playbook" in play else {}
            owned = {name for name in given if name.startswith("ws_server_")}
            assert owned <= documented | _rules._BESIDES, playbook.name
