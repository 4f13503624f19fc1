# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The hosts of a batch come in the order of the inventory, and the workers of a host in the order of
its plan.

The first worker of the first host is the canary.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import yaml
from program import ROOT, finished

HOST = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


def test_the_first_host_comes_first_though_another_is_faster(tmp_path):
    steps = yaml.safe_load((ROOT / "roles/ws_server/tasks/roll.yml").read_text())
    [replacing] = [step for step in steps if "one at a time over all hosts" in step["name"]]
    plan = [{"instance": instance, "generation": "new", "fallback": "old"} for instance in ("81", "80")]
    slow = {"turns": "{{ lookup('ansible.builtin.pipe', 'sleep 1') or plan }}"}
    hosts = {"one": HOST | slow, "two": HOST | {"turns": plan}}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {"plan": plan, "__ws_server_plan": {"turns": "{{ turns }}"}},
        "tasks": [replacing],
    }
    said = "{{ inventory_hostname }} {{ ws_server_instance }} {{ ws_server_generation }} {{ _ws_server_fallback }}"
    (tmp_path / "replace_worker.yml").write_text(json.dumps([{"name": "Turn", "ansible.builtin.debug": {"msg": said}}]))
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    run = finished(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.json", "play.yml"],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    [played] = json.loads(run.stdout[run.stdout.index("{\n") :])["plays"]
    turned = [task for task in played["tasks"] if task["task"]["name"] == "Turn"]
    turns = [result["msg"] for task in turned for result in task["hosts"].values()]
    assert turns == [f"{host} {instance} new old" for host in ("one", "two") for instance in ("81", "80")]
