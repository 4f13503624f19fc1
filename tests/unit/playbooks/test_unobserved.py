# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The monitoring units of each host. site stops units of an earlier run that are not among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from program import ROOT

PROMETHEUS = {"prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter"}
NODE = {"prometheus-node-exporter"}
EXPORTERS = NODE | {f"prometheus-{name}-exporter" for name in ("redis", "postgres", "nginx")}
LOCK = {"ws-fleet-lock-metrics.timer"}


def services(*names):
    return {f"{name}.service" for name in set().union(*names)}


@pytest.mark.parametrize(
    ("observers", "variables", "observing"),
    [
        (
            ["two"],
            {},
            {
                "one": services(EXPORTERS, {"alloy"}) | LOCK,
                "two": services(NODE, PROMETHEUS, {"alloy", "loki", "tempo", "grafana-server"}),
            },
        ),
        (
            ["one"],
            {"ws_observability_parts": ["grafana"], "exporters_enabled": ["node"]},
            {"one": services(NODE, PROMETHEUS, {"grafana-server"}) | LOCK, "two": services(NODE)},
        ),
        (
            ["one"],
            {"ws_observability_parts": []},
            {"one": services(EXPORTERS, PROMETHEUS) | LOCK, "two": services(NODE)},
        ),
        ([], {}, {"one": set(), "two": set()}),
    ],
    ids=["everything", "charts", "Prometheus", "nothing"],
)
def test_the_units_of_the_monitoring(tmp_path, observers, variables, observing):
    local = {"ansible_connection": "local"}
    groups = {"ws_workers": ["one", "two"], "ws_edge": ["one"], "ws_redis": ["one"], "ws_postgres": ["one"]}
    children = {
        name: {"hosts": dict.fromkeys(hosts)} for name, hosts in {**groups, "ws_observability": observers}.items()
    }
    hosts = {"vars": local | variables, "hosts": {"one": {}, "two": {}}, "children": children}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": hosts}))
    task = {"name": "Tell", "ansible.builtin.debug": {"msg": "{{ _fleet_observing_units }}"}}
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
    assert {host: set(result["msg"]) for host, result in told.items()} == observing
