# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""What is stopped where: whatever the inventory does not want there, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from program import ROOT

PROMETHEUS = {"prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter"}
EXPORTERS = {f"prometheus-{name}-exporter" for name in ("node", "redis", "postgres", "nginx")}
PARTS = {"grafana-server", "loki", "tempo"}


@pytest.mark.parametrize(
    ("observers", "variables", "unwanted"),
    [
        (["one"], {}, {"one": set(), "two": PROMETHEUS | PARTS}),
        (["two"], {"ws_observability_parts": ["loki"]}, {"one": PROMETHEUS | PARTS, "two": PARTS - {"loki"}}),
        (
            ["one"],
            {"ws_observability_parts": ["grafana"]},
            {"one": PARTS - {"grafana-server"} | {"alloy"}, "two": PROMETHEUS | PARTS | {"alloy"}},
        ),
        ([], {}, dict.fromkeys(["one", "two"], PROMETHEUS | PARTS | EXPORTERS | {"alloy"})),
    ],
    ids=["everything", "logs", "charts", "nothing"],
)
def test_what_is_stopped(tmp_path, observers, variables, unwanted):
    local = {"ansible_connection": "local"}
    groups = {"ws_workers": ["one", "two"], "ws_edge": ["one"], "ws_redis": ["one"], "ws_postgres": ["one"]}
    children = {
        name: {"hosts": dict.fromkeys(hosts)} for name, hosts in {**groups, "ws_observability": observers}.items()
    }
    hosts = {"vars": local | variables, "hosts": {"one": {}, "two": {}}, "children": children}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": hosts}))
    task = {"name": "Tell", "ansible.builtin.debug": {"msg": "{{ _fleet_unwanted_units }}"}}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": str(ROOT / "playbooks/vars/fleet.yml"),
        "tasks": [task],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    run = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.json", "play.yml"],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    [played] = json.loads(run.stdout[run.stdout.index("{\n") :])["plays"]
    told = played["tasks"][0]["hosts"]
    assert {host: set(result["msg"]) for host, result in told.items()} == unwanted
