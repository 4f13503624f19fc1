# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Tasks on the control machine become no other user, even if the inventory sets ansible_become."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from program import ROOT, finished


def tasks(contents: Any) -> Iterator[dict[str, Any]]:
    if isinstance(contents, list):
        for item in contents:
            yield from tasks(item)
    elif isinstance(contents, dict):
        yield contents
        for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
            yield from tasks(contents.get(key, []))


def test_no_task_on_the_control_machine_becomes_another_user():
    files = [
        *(ROOT / "roles").glob("*/tasks/*.yml"),
        *(ROOT / "roles").glob("*/handlers/*.yml"),
        *(ROOT / "playbooks").rglob("*.yml"),
    ]
    delegated = [
        (str(file.relative_to(ROOT)), task)
        for file in files
        for task in tasks(yaml.safe_load(file.read_text()))
        if task.get("delegate_to") in ("localhost", "127.0.0.1") or "local_action" in task
    ]
    assert len(delegated) >= 3
    for file, task in delegated:
        assert task.get("become") is False, (file, task["name"])
        # The inventory's variable overrides the keyword.
        assert task.get("vars", {}).get("ansible_become") is False, (file, task["name"])


def test_the_variable_of_a_task_wins_over_the_inventory(tmp_path: Path):
    inventory = {
        "ansible_become": True,
        "ansible_become_user": "nobody",
        "ansible_become_exe": "/bin/false",
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"vars": inventory, "hosts": {"one": {}}}}))
    task = {"ansible.builtin.command": "id", "delegate_to": "localhost", "become": False}
    play = {
        "hosts": "one",
        "gather_facts": False,
        "become": True,
        "tasks": [task | {"vars": {"ansible_become": False}}],
    }
    (tmp_path / "play.json").write_text(json.dumps([play]))
    program = Path(sys.executable).with_name("ansible-playbook")
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = finished([program, "-i", tmp_path / "inventory.json", tmp_path / "play.json"], env=environment)
    assert done.returncode == 0, done.stdout
