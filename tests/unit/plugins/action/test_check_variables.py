# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The task in a play: the sources of the values, and the output of a run."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from program import ROOT, finished

from ansible_collections.selfhost.websocket.plugins.action.check_variables import documented, sha256

RULES = [
    {"variable": "keep", "whole": [1, 20], "remedy": "set it to a number from 1 to {{ most }}"},
    {"variable": "listen_address", "address": {"also": ["127.0.0.1"]}, "remedy": "set it to 127.0.0.1 or one of"},
    {"variable": "password", "form": "^.{8,}$", "fault": "is too short", "remedy": "use eight characters"},
]
GOOD = {"keep": "8", "most": 20, "listen_address": "{{ address }}", "address": "127.0.0.1", "password": "eight***"}


@pytest.fixture
def play(tmp_path):
    """Runs a play with the task on a host that cannot be reached."""

    def run(variables, *arguments, rules=RULES, **keywords):
        task = {"name": "Check", "selfhost.websocket.check_variables": {"rules": rules}, "register": "checked"}
        shown = {"name": "Show", "ansible.builtin.debug": {"var": "checked"}, "check_mode": True}
        plays = [{"hosts": "far", "gather_facts": False, "any_errors_fatal": True, "tasks": [task, shown], **keywords}]
        (tmp_path / "play.json").write_text(json.dumps(plays))
        hosts = {"far": {"ansible_host": "192.0.2.1", **variables}}
        (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))
        settings = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "lab/collections"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [program, "-i", tmp_path / "inventory.json", tmp_path / "play.json", *arguments]
        done = finished(command, env=os.environ | settings)
        report = json.loads(done.stdout[done.stdout.index("{\n") :])
        return report["plays"][0]["tasks"][0]["hosts"]["far"]

    return run


def test_good_variables_pass_and_no_host_is_connected_to(play):
    result = play(GOOD)
    assert not result.get("failed")
    assert not result["changed"]
    assert result["faults"] == []


def test_all_faults_are_reported_at_once(play):
    result = play(GOOD | {"address": "203.0.113.9", "password": "secret"}, "--check", "-e", "keep=0")
    assert result["failed"]
    assert not result["changed"]
    assert result["faults"] == [
        "keep is 0: set it to a number from 1 to 20.",
        "listen_address is '203.0.113.9', which is not an address of far: set it to 127.0.0.1 or one of .",
        "password is too short: use eight characters.",
    ]
    assert result["msg"] == "\n".join(result["faults"])
    assert "secret" not in str(result)


def test_variables_that_the_playbooks_set_have_no_effect_in_the_inventory(play):
    """Values of -e have an effect, and so do variables that fleet.yml uses for its own value."""
    inventory = {
        "redis_clients_local": False,
        "ws_edge_group": "web",
        "ws_server_lock_host": "far",
        "ws_server_api_clients": [],
    }
    given = ("-e", "ws_server_lock_host=far")
    fleet = str(ROOT / "playbooks/vars/fleet.yml")
    result = play(inventory, *given, rules=[{"check": "overridden"}], vars_files=fleet)
    assert result["faults"] == [
        "redis_clients_local of the inventory has no effect, because the playbooks set it (playbooks/vars/fleet.yml): remove it there, "
        "or use the role in a play of your own.",
        "ws_edge_group of the inventory has no effect, because the playbooks set it (playbooks/vars/fleet.yml): give it with -e "
        "ws_edge_group=….",
    ]
    # In an operator's own play, the inventory's values count.
    assert play(inventory, rules=[{"check": "overridden"}])["faults"] == []


def test_a_wrong_table_fails(play):
    assert "There is no check 'nothing'" in play({}, rules=[{"check": "nothing"}])["msg"]


def test_the_documented_variables_are_those_of_the_roles():
    assert {"ws_server_instances", "ws_server_edges", "nginx_domain", "vendor_packages_name"} <= documented()


def test_the_checksum_of_a_file(tmp_path):
    (tmp_path / "key").write_bytes(b"key")
    assert sha256(str(tmp_path / "key")) == hashlib.sha256(b"key").hexdigest()
    assert sha256(str(tmp_path / "none")) is None
    assert sha256(str(tmp_path)) is None
    assert sha256("") is None
