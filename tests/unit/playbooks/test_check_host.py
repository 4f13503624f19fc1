# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The checks report what a host lacks, and accept a Debian derivative that lacks nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from program import ROOT

from ansible_collections.selfhost.websocket.plugins.module_utils._checks import Settings, find_faults
from ansible_collections.selfhost.websocket.plugins.module_utils._rules import CHECKS

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
        ["bullseye runs Debian 11.9 on x86_64, which lacks Python 3.11 (it has 3.9).", "Debian 12 and 13 are tested"],
    ),
    "fedora": (FEDORA, ["fedora runs Fedora 42", "lacks Debian's packages (apt)"]),
    "raspberry": ({"userspace_bits": "32", "architecture": "armv7l"}, ["on armv7l, which lacks a system of 64 bits"]),
    "tiny": ({"memtotal_mb": 480}, ["tiny has 480 MB of memory and needs 900"]),
    "full": ({"mounts": [{"mount": "/", "size_available": 300 * 2**20}]}, ["full has 300 MB free on / and needs 1024"]),
}


def faults_of(host: str, facts: dict[str, Any]) -> list[str]:
    tasks = yaml.safe_load((ROOT / "playbooks/tasks/check_host.yml").read_text())
    variables = {
        "ansible_facts": DEBIAN | facts,
        "group_names": ["berlin", "ws_redis", "ws_workers"],
        "_fleet_pattern": "ws_edge:ws_workers:ws_redis:ws_postgres",
    }
    rules = tasks[0]["selfhost.websocket.check_variables"]["rules"]
    return find_faults(rules, Settings(variables.__getitem__, host), CHECKS)


@pytest.mark.parametrize("name", CASES)
def test_a_host(name: str) -> None:
    facts, words = CASES[name]
    faults = faults_of(name, facts)
    assert len(faults) == bool(words), faults
    assert not [word for word in words if word not in faults[0]], faults


def test_all_faults_of_a_host_are_reported_at_once() -> None:
    faults = faults_of(
        "old", PYTHON_39 | {"pkg_mgr": "dnf5", "memtotal_mb": 480, "mounts": [{"mount": "/", "size_available": 0}]}
    )
    assert faults == [
        "old runs Debian 13.1 on x86_64, which lacks Debian's packages (apt), Python 3.11 (it has 3.9). Debian 12 and 13 are tested: "
        "install one of them there, or put another host into ws_redis, ws_workers.",
        "old has 480 MB of memory and needs 900, and 0 MB free on / and needs 1024. The defaults are for a host of 4 GB that runs "
        "everything; lower ws_server_instances and redis_maxmemory on smaller ones.",
    ]


OFFER_TWO = """#!/bin/sh
# Like apt-cache: a record for each version of an available package, and an error for a missing package.
echo "$@" >>"$0.calls"
printf 'Package: nginx\\nVersion: 2\\n\\nPackage: nginx\\nVersion: 1\\n\\nPackage: openssl\\nVersion: 1\\n'
echo "N: Unable to locate package" >&2
exit 100
"""


@pytest.mark.parametrize(
    ("lists", "missing"), [(["x_Packages"], ["redis", "nginx-full"]), ([], [])], ids=["lists", "no_lists"]
)
def test_which_packages_the_distribution_does_not_offer(tmp_path: Path, lists: list[str], missing: list[str]) -> None:
    """One call has all packages. Without package lists, no package counts as missing."""
    tasks = yaml.safe_load((ROOT / "playbooks/tasks/check_host.yml").read_text())
    [text] = [task["ansible.builtin.shell"] for task in tasks if "ansible.builtin.shell" in task]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["flatten"] = lambda groups: [name for group in groups for name in group]
    command = environment.from_string(text).render(_packages=[["nginx", "redis"], [], ["openssl", "nginx-full"]])
    for name in lists:
        (tmp_path / name).touch()
    program = tmp_path / "apt-cache"
    program.write_text(OFFER_TWO)
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command.replace("/var/lib/apt/lists", str(tmp_path))],
        env={"PATH": path}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (missing, "")
    calls = tmp_path / "apt-cache.calls"
    assert (calls.read_text() if calls.exists() else "") == "show nginx redis openssl nginx-full\n" * len(lists)
