# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Hosts that lack something are told what, and a derivative of Debian that lacks nothing passes. One run: a host for each case."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from program import ROOT, finished

DEBIAN = {
    "distribution": "Debian",
    "distribution_version": "13.1",
    "architecture": "x86_64",
    "userspace_bits": "64",
    "pkg_mgr": "apt",
    "python": {"version": {"major": 3, "minor": 13}},
    "memtotal_mb": 3900,
    "mounts": [{"mount": "/boot"}, {"mount": "/", "size_available": 20 * 2**30}],
}
PYTHON_39 = {"python": {"version": {"major": 3, "minor": 9}}}
UBUNTU = {"distribution": "Ubuntu", "distribution_version": "24.04", "python": {"version": {"major": 3, "minor": 12}}}
FEDORA = {"distribution": "Fedora", "distribution_version": "42", "pkg_mgr": "dnf5"}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "debian": ({}, []),
    "ubuntu": (UBUNTU, []),
    "no_mounts": ({"mounts": []}, []),
    "bullseye": (
        {"distribution_version": "11.9"} | PYTHON_39,
        ["bullseye runs Debian 11.9 on x86_64, and lacks Python 3.11 (it has 3.9).", "Debian 12 and 13 are tested"],
    ),
    "fedora": (FEDORA, ["fedora runs Fedora 42", "lacks Debian's packages (apt)"]),
    "raspberry": ({"userspace_bits": "32", "architecture": "armv7l"}, ["on armv7l, and lacks a system of 64 bits"]),
    "tiny": ({"memtotal_mb": 480}, ["tiny has 480 MB of memory and needs 900"]),
    "full": ({"mounts": [{"mount": "/", "size_available": 300 * 2**20}]}, ["full has 300 MB free on / and needs 1024"]),
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each host is told; the empty string where it passes."""
    directory = tmp_path_factory.mktemp("check-host")
    hosts = {name: {"given": DEBIAN | facts} for name, (facts, _) in CASES.items()}
    groups = {
        name: {"hosts": {host: {} for host in CASES}} for name in ("ws_edge", "ws_workers", "ws_redis", "ws_postgres")
    }
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"all": {"vars": local, "hosts": hosts, "children": groups}}
    (directory / "inventory.json").write_text(json.dumps(inventory))
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": str(ROOT / "playbooks/vars/fleet.yml"),
        "tasks": [
            {"ansible.builtin.set_fact": {name: f"{{{{ given.{name} }}}}" for name in DEBIAN} | {"cacheable": True}},
            {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/check_host.yml")},
        ],
    }
    (directory / "play.json").write_text(json.dumps([play]))
    settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    program = Path(sys.executable).with_name("ansible-playbook")
    done = finished([program, "-i", directory / "inventory.json", directory / "play.json"], env=os.environ | settings)
    report = json.loads(done.stdout[done.stdout.index("{\n") :])
    told = dict.fromkeys(CASES, "")
    for task in report["plays"][0]["tasks"]:
        for host, result in task["hosts"].items():
            if result.get("failed"):
                told[host] += result["msg"]
    return told


@pytest.mark.parametrize("name", CASES)
def test_a_host(messages: dict[str, str], name: str) -> None:
    words = CASES[name][1]
    assert bool(messages[name]) == bool(words), messages[name]
    assert not [word for word in words if word not in messages[name]], messages[name]
