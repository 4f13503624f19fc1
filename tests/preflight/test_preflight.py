# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A bad inventory ends a run before the run changes anything.

These cases need the unchanged playbooks and thus one run for each test. The inventory's hosts are
this machine. test_fleets.py tests the message for each value.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleets import GROUPS, LOCAL, ROOT, SITE_BEGINS_WITH, messages, results, run_playbook
from test_fleets import in_network

PREFLIGHT = [
    "Check the requested host and action",
    "Check the requested host",
    "Check the inventory",
    "Check the hosts",
    "Check where the stores are",
    "Check the monitoring",
]
IMPORT = "ansible.builtin.import_tasks"
SHOW = "Show values"
# Without a task that has this tag, only the tasks that always run are left.
PREFLIGHT_ALONE = ["--tags", "preflight"]


@dataclass
class Result:
    returncode: int
    plays: list[str]
    told: dict[str, list[str]]
    changed: int
    shown: dict[str, Any]


Site = Callable[..., Result]


def inventory(hosts: dict[str, dict[str, Any]] | None = None, **groups: list[str]) -> dict[str, Any]:
    """By default, one host in every group."""
    children = {name: {"hosts": {host: {} for host in groups.get(name, ["one"])}} for name in GROUPS}
    return {"all": {"vars": {"nginx_domain": "ws.example.org"}, "hosts": hosts or {"one": LOCAL}, "children": children}}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Runs a playbook, or the first parts of site.yml, and returns its messages.


    `show`: variables of the first host.
    """

    def run(contents: dict[str, Any], *arguments: str, playbook: str | None = None, show: Sequence[str] = ()) -> Result:
        names = [playbook] if playbook else SITE_BEGINS_WITH
        plays = tmp_path / "plays.json"
        imports = [{"ansible.builtin.import_playbook": str(ROOT / "playbooks" / name)} for name in names]
        values = {name: f"{{{{ {name} }}}}" for name in show}
        last = {
            "name": SHOW,
            "hosts": "all",
            "gather_facts": False,
            "vars_files": str(ROOT / "playbooks/vars/fleet.yml"),
            "tasks": [{"name": SHOW, "ansible.builtin.debug": {"msg": values}, "run_once": True}],
        }
        plays.write_text(json.dumps([*imports, *([last] if show else [])]))
        returncode, report = run_playbook(plays, contents, *arguments)
        told: dict[str, list[str]] = {}
        shown = [
            result
            for play in report["plays"]
            for task in play["tasks"]
            if task["task"]["name"] == SHOW
            for result in task["hosts"].values()
        ]
        for host, result in results(report):
            told.setdefault(host, []).extend(messages(result))
        return Result(
            returncode=returncode,
            plays=[play["play"]["name"] for play in report["plays"] if play["tasks"]],
            told={host: sentences for host, sentences in told.items() if sentences},
            changed=sum(host["changed"] for host in report["stats"].values()),
            shown=next((result["msg"] for result in shown), {}),
        )

    return run


def assert_refused(result: Result, **begins: str) -> None:
    """Nothing was touched, and each of these hosts got one sentence."""
    assert result.returncode != 0
    assert set(result.plays) <= set(PREFLIGHT)
    assert result.changed == 0
    assert set(result.told) == set(begins), result.told
    for host, begin in begins.items():
        assert len(result.told[host]) == 1, result.told
        assert result.told[host][0].startswith(begin), result.told


def test_site_begins_with_the_checks() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
    assert [play.get("ansible.builtin.import_playbook") for play in plays[:3]] == SITE_BEGINS_WITH


def tasks_of(file: Path) -> list[dict[str, Any]]:
    """The tasks of a file, and of the files that it imports."""
    plays = yaml.safe_load(file.read_text())
    tasks = [task for play in plays for task in play.get("tasks", [play])]
    imported = [file.parent / task[IMPORT] for task in tasks if IMPORT in task]
    return tasks + [task for path in imported for task in tasks_of(path)]


def test_the_checks_change_nothing() -> None:
    """The parts and the preflights only use modules that read."""
    looks = {
        "ansible.builtin.assert", "ansible.builtin.find", "ansible.builtin.getent", "ansible.builtin.include_role",
        "ansible.builtin.meta", "ansible.builtin.set_fact", "ansible.builtin.setup", "ansible.builtin.stat",
        "selfhost.websocket.check_variables", "selfhost.websocket.foreign_files", "selfhost.websocket.held_ports",
        "selfhost.websocket.store_info", IMPORT,
    }  # fmt: skip
    around = {
        "name", "when", "vars", "loop", "register", "run_once", "delegate_to", "become", "ignore_unreachable",
        "any_errors_fatal", "failed_when", "loop_control", "tags", "ignore_errors",
    }  # fmt: skip
    files = [*(ROOT / "playbooks" / part for part in SITE_BEGINS_WITH), *ROOT.glob("roles/*/tasks/preflight.yml")]
    tasks = [task for file in files for task in tasks_of(file)]
    # The only command reads the package lists.
    (packages,) = [task for task in tasks if "ansible.builtin.shell" in task]
    assert packages["ansible.builtin.shell"].startswith("ls /var/lib/apt/lists/*_Packages* ")
    used = {key for task in tasks if task is not packages for key in task} - around
    assert "selfhost.websocket.held_ports" in used
    assert used <= looks


def test_a_good_inventory_passes(site: Site) -> None:
    result = site(inventory(), *PREFLIGHT_ALONE, playbook="site.yml")
    assert (result.returncode, result.told, result.changed) == (0, {}, 0)


def test_one_bad_host_ends_the_run_for_all(site: Site) -> None:
    """The first role refuses the first of two edges, and the run also ends for the second."""
    hosts = {"one": LOCAL, "two": LOCAL | {"nginx_tls_days": 1}}
    hosts = {name: variables | {"ws_server_private_address": "127.0.0.1"} for name, variables in hosts.items()}
    result = site(inventory(hosts, ws_edge=["one", "two"]), "--extra-vars", "nginx_metrics_listen_address=")
    assert_refused(result, two="nginx_tls_days is 1: ")
    assert "Check the monitoring" not in result.plays


def test_an_inventory_without_hosts(site: Site) -> None:
    result = site({})
    assert_refused(result, localhost="The inventory has no host in ws_edge, ws_workers, ws_redis, ws_postgres: ")
    assert result.plays == ["Check the inventory"]


def test_a_limit_that_leaves_out_redis(site: Site) -> None:
    two = LOCAL | {"ws_server_private_address": "10.20.30.6"}
    result = site(inventory({"one": LOCAL, "two": two}, ws_redis=["two"]), "--limit", "one")
    assert_refused(
        result, one="--limit leaves out two, and the run has to look there for the ports of Redis and Postgres: "
    )


def test_a_limit_that_leaves_out_a_host_with_an_unknown_address(site: Site) -> None:
    result = site(inventory({"one": LOCAL, "two": LOCAL}, ws_workers=["one", "two"]), "--limit", "one")
    assert_refused(
        result, one="--limit leaves out two, whose address the other hosts need: set ws_server_private_address "
    )


def test_a_limit_leaves_no_host_out_of_what_is_written(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts that are left out: one with an address in the inventory, one with facts of an earlier run."""
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN", "ansible.builtin.jsonfile")
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN_CONNECTION", str(tmp_path / "facts"))
    one, three = (LOCAL | in_network(tmp_path, f"10.20.30.{number}") for number in (5, 7))
    (tmp_path / "earlier.json").write_text(json.dumps([{"hosts": "three"}]))
    run_playbook(tmp_path / "earlier.json", {"all": {"hosts": {"three": three}}})
    hosts = {
        "one": one,
        "two": {"ansible_host": "192.0.2.1", "ws_server_private_address": "10.20.30.6"},
        "three": {"ansible_host": "192.0.2.1"},
    }
    numbered = {
        name: variables | {"ws_server_instances": count} for count, (name, variables) in enumerate(hosts.items(), 1)
    }
    shown = ["nginx_workers", "prometheus_targets", "postgres_client_addresses", "ws_server_fleet"]
    result = site(inventory(numbered, ws_workers=list(hosts)), "--limit", "one", show=shown)
    assert (result.returncode, result.told, result.changed) == (0, {}, 0)
    others = [f"10.20.30.{address}" for address in ("6:8080", "6:8081", "7:8080", "7:8081", "7:8082")]
    assert result.shown["ws_server_fleet"] == ["10.20.30.5:8080", *others]
    assert result.shown["nginx_workers"] == ["127.0.0.1:8080", *others]
    assert result.shown["postgres_client_addresses"] == ["10.20.30.6", "10.20.30.7"]
    targets = [target["address"] for target in result.shown["prometheus_targets"] if target["host"] != "one"]
    assert sorted(targets) == sorted([*others, "10.20.30.6:9100", "10.20.30.7:9100"])


def test_maintenance_needs_a_host_and_an_action(site: Site) -> None:
    contents = inventory({"one": LOCAL, "two": LOCAL}, ws_workers=["one", "two"])
    result = site(contents, "--extra-vars", "ws_host=one ws_action=reboot", playbook="host_maintenance.yml")
    assert_refused(result, one="one is more than a worker host: it has Redis and Postgres and the only edge, ")


def test_an_unreachable_observer_does_not_prevent_a_rollback(site: Site, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        away = {"ansible_host": "127.0.0.1", "ansible_port": listener.getsockname()[1]}
    contents = inventory({"one": LOCAL | in_network(tmp_path, "10.20.30.5"), "away": away}, ws_observability=["away"])
    result = site(contents, *PREFLIGHT_ALONE, playbook="rollback.yml")
    assert (result.returncode, result.told, result.changed) == (0, {}, 0)
