# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Many fleets in one run of the checks that site.yml begins with.

Each fleet is one host or a few, in separate groups. The plays come from playbooks/parts: hosts do
not wait for each other there, and a refused host does not end the run. A fleet takes part in all
checks or in one stage, because every task of a play forks a process for every host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE_BEGINS_WITH = ["parts/checks.yml", "parts/store_checks.yml", "parts/observability_checks.yml"]
GROUPS = ["ws_edge", "ws_workers", "ws_redis", "ws_postgres", "ws_observability"]
PYTHON = sys.executable
LOCAL = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": PYTHON}
# The files, users and ports of this machine depend on its other programs. Separate cases check
# them.
WITHOUT_THE_MACHINE = ["--skip-tags", "foreign,ports"]
# The facts that the stage "hosts" needs take a third of the time that all facts take.
FACTS = ["!all", "!min", "distribution", "network"]

# A run ends with a play whose hosts all failed. This host does not fail, and costs nothing.
IDLE = "idle"
LEAVE = {"name": "Leave", "ansible.builtin.meta": "end_host", "when": f"inventory_hostname == '{IDLE}'"}


def run_playbook(
    playbook: Path, inventory: dict[str, Any], *arguments: str, machine: bool = False
) -> tuple[int, dict[str, Any]]:
    """Run the playbook in check mode, so that a missed fault changes nothing.

    `machine` also checks the other programs of this machine.
    """
    path = playbook.with_name("inventory.json")
    path.write_text(json.dumps(inventory))
    settings = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "lab/collections"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_PIPELINING": "true",
    }
    process = subprocess.run(
        [
            Path(PYTHON).with_name("ansible-playbook"),
            "--check",
            "-i",
            path,
            playbook,
            *([] if machine else WITHOUT_THE_MACHINE),
            *arguments,
        ],
        cwd=ROOT,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "{\n" in process.stdout, process.stderr
    return process.returncode, json.loads(process.stdout[process.stdout.index("{\n") :])


def results(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each host's result of each task.

    If Ansible gathers no facts, a later task reports the reason.
    """
    tasks = [task for play in report["plays"] for task in play["tasks"] if task["task"]["name"] != "Gather facts"]
    return [item for task in tasks for item in task["hosts"].items()]


def messages(result: dict[str, Any]) -> list[str]:
    """The sentences of a task that failed."""
    failed = [item for item in result.get("results", [result]) if item.get("failed")] if result.get("failed") else []
    sentences = [sentence for item in failed for sentence in item["msg"].strip().splitlines()]
    return [sentence for sentence in sentences if sentence != "Validation of arguments failed:"]


class Fleets:
    """Runs the checks for all fleets, and records the refusals of each host."""

    def __init__(
        self,
        directory: Path,
        fleets: dict[str, dict[str, Any]],
        members: dict[str, dict[str, list[str]]],
        stages: dict[str, str],
        *,
        machine: bool = False,
    ):
        """`fleets` has the variables of each host.

        `members` has the hosts of a fleet's groups if the fleet has more than one host. `stages`
        names the stage of a host that takes part in one stage only: see `_is_in_stage`.
        """
        groups = {
            f"{name}_{group}": {"hosts": {host: {} for host in members.get(name, {}).get(group, [name])}}
            for name in fleets
            for group in GROUPS
        }
        hosts = {name: LOCAL | variables for name, variables in fleets.items()}
        everyone = hosts | {IDLE: LOCAL}
        inventory = {"all": {"vars": {"nginx_domain": "ws.example.org"}, "hosts": everyone, "children": groups}}
        staged = {stage: [name for name in fleets if stages.get(name, "all") == stage] for stage in stages.values()}
        staged["all"] = [name for name in fleets if name not in stages]
        playbook = directory / "fleets.json"
        playbook.write_text(json.dumps([play for stage, names in staged.items() for play in _plays(stage, names)]))
        group_names = {f"{group}_group": f"{{{{ fleet | default(inventory_hostname) }}}}_{group}" for group in GROUPS}
        _code, report = run_playbook(playbook, inventory, "--extra-vars", json.dumps(group_names), machine=machine)
        self.told: dict[str, list[str]] = {name: [] for name in fleets}
        self.tasks: dict[str, int] = dict.fromkeys(fleets, 0)
        for host, result in results(report):
            self.told.setdefault(host, []).extend(messages(result))
            self.tasks[host] = self.tasks.get(host, 0) + 1
        self.changed = sum(host["changed"] for host in report["stats"].values())


def _plays(stage: str, hosts: list[str]) -> list[dict[str, Any]]:
    plays = []
    for part in SITE_BEGINS_WITH:
        path = ROOT / "playbooks" / part
        for play in yaml.safe_load(path.read_text()):
            files = str((path.parent / play["vars_files"]).resolve())
            tasks = [task for task in play["tasks"] if _is_in_stage(task, play["name"], stage)]
            for task in tasks:
                task.pop("run_once", None)
                if "ansible.builtin.setup" in task and stage != "all":
                    task["ansible.builtin.setup"] = {"gather_subset": FACTS}
                if "ansible.builtin.import_tasks" in task:
                    file = path.parent / task["ansible.builtin.import_tasks"]
                    task["ansible.builtin.import_tasks"] = str(file.resolve())
            if tasks:
                own = {
                    "hosts": [*hosts, IDLE],
                    "any_errors_fatal": False,
                    "vars_files": files,
                    "tasks": [LEAVE, *tasks],
                }
                plays.append(play | own)
    return plays


def _is_in_stage(task: dict[str, Any], play: str, stage: str) -> bool:
    """The stages are "inventory" and "parts", which inspect no host, "hosts", "names",
    "stores", "ports" and each role.

    The stage "hosts" comes before any role and has the tasks that compare a host with its fleet.
    Unit tests cover the requirements on a single host. The stages of roles, "ports" (with the stage of
    the workers) and "stores" gather no facts. The stage "all" leaves out "stores", which would wait for
    unreachable hosts.
    """
    if play == "Check where the stores are" or stage == "stores":
        return play == "Check where the stores are" and stage == "stores"
    role = task.get("ansible.builtin.include_role", {}).get("name", "").rpartition(".")[2]
    if role or stage == "all":
        return stage in ("all", role) or (stage == "ports" and role == "ws_server")
    if stage in ("inventory", "parts"):
        asks_facts = "distribution" in str(task)
        return play == {"inventory": "Check the inventory", "parts": "Check the monitoring"}[stage] and not asks_facts
    checked = str(task.get("selfhost.websocket.check_variables"))
    if stage == "hosts":
        compared = "'check'" not in checked or "'address'" in checked
        compared = play == "Check the hosts" and compared and "ansible.builtin.import_tasks" not in task
        return compared or task["name"] == "Check that the monitoring host answers"
    if stage == "ports" and task.get("tags") == "ports":
        return True
    return "ws_server_private_address" in task.get("ansible.builtin.set_fact", {}) or (
        stage in ("names", "ports") and f"'{stage}'" in checked
    )
