# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The lookup in a play: the source of the groups and of the hosts' variables.

tests/unit/plugins/module_utils/test_topology.py tests each value.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from program import ROOT, finished

from ansible_collections.selfhost.websocket.plugins.module_utils._topology import VALUES

STORES = {
    "redis_endpoint": {"address": "10.0.0.2", "port": 6379, "socket": "/redis", "unit": "redis-server.service"},
    "postgres_endpoint": {"address": "10.0.0.2", "port": 5432, "socket": "/p", "database": "ws", "user": "app"},
}
# Templates in the name of a group, and in the variables of another host.
VARIABLES = {
    "prefix": "chat",
    "ws_workers_group": "{{ prefix }}_workers",
    "nginx_domain": "{{ inventory_hostname }}.example.org",
    "ws_server_private_address": "10.0.0.{{ number }}",
}
TASKS = {
    "one value": "{{ lookup('selfhost.websocket.topology', 'endpoints') }}",
    "two values": "{{ lookup('selfhost.websocket.topology', 'lock_host', 'origins') }}",
    "all values": "{{ lookup('selfhost.websocket.topology') }}",
    "unknown": "{{ lookup('selfhost.websocket.topology', 'banana') }}",
}


def values_in_a_play(directory: Path) -> tuple[list[str], dict[str, Any]]:
    """The hosts of a play whose pattern uses the lookup, and the result of each task on the host
    two."""
    hosts = {name: {"number": number, "ws_server_instances": 1} for number, name in enumerate(("one", "two", "out"), 1)}
    groups = {"ws_edge": ["one"], "chat_workers": ["one", "two"], "ws_redis": ["two"], "ws_postgres": ["two"]}
    children = {name: {"hosts": {host: {} for host in members}} for name, members in groups.items()}
    inventory = {"all": {"vars": VARIABLES | STORES, "hosts": hosts, "children": children}}
    play = {
        "hosts": "{{ lookup('selfhost.websocket.topology', 'pattern') }}",
        "gather_facts": False,
        "vars": {"ws_workers_group": VARIABLES["ws_workers_group"], "prefix": "chat"},
        "tasks": [
            {"name": name, "ansible.builtin.debug": {"msg": value}, "ignore_errors": True}
            for name, value in TASKS.items()
        ],
    }
    (directory / "inventory.json").write_text(json.dumps(inventory))
    (directory / "play.json").write_text(json.dumps([play]))
    settings = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "lab/collections"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [program, "-i", directory / "inventory.json", directory / "play.json"]
    done = finished(command, env=os.environ | settings)
    [played] = json.loads(done.stdout[done.stdout.index("{\n") :])["plays"]
    results = {task["task"]["name"]: task["hosts"] for task in played["tasks"]}
    return list(results["one value"]), {name: hosts["two"]["msg"] for name, hosts in results.items()}


def test_the_values_in_a_play(tmp_path: Path) -> None:
    hosts, answers = values_in_a_play(tmp_path)
    assert sorted(hosts) == ["one", "two"]
    assert answers["one value"] == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert answers["two values"] == ["one", ["https://one.example.org"]]
    assert set(answers["all values"]) == set(VALUES)
    assert answers["all values"]["listen_address"] == "10.0.0.2"
    assert answers["all values"]["redis"]["address"] == ""
    assert "The topology has no value 'banana': ask for one of pattern, hosts, " in answers["unknown"]
