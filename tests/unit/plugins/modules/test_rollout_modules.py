# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""rollout_plan, rollout_gate and rollout_state on a host of real workers, also in check mode."""

from __future__ import annotations

import os
import time

import pytest
from hosts import run
from support.ports import free_port

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance, _rollout_gate
from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control
from ansible_collections.selfhost.websocket.plugins.modules import rollout_gate, rollout_plan, rollout_state

OLD, NEW = "1.0+abc-12345678", "2.0+def-87654321"
ENDPOINTS = [f"10.0.0.1:80{instance}" for instance in (80, 81, 82, 83)]


@pytest.fixture(autouse=True)
def no_real_waiting(monkeypatch, clock):
    """Time passes only in the gate's sleeps."""
    monkeypatch.setattr(_rollout_gate.Gate.__init__, "__defaults__", (clock,))


def plan(kind="update", check=False, **options):
    if kind == "update":
        options = {"instances": ["80", "81"], "generation": NEW} | options
    result = run(rollout_plan, check=check, kind=kind, endpoints=ENDPOINTS, **options)
    assert not result["failed"], result
    assert not result["changed"]
    return result


def gate(check=False, **options):
    return run(rollout_gate, check=check, **{"host": "one", "instance": "80", "endpoints": ENDPOINTS} | options)


def state(state, kind, check=False, **options):
    result = run(rollout_state, check=check, state=state, kind=kind, **options)
    assert not result["failed"], result
    return result


def failed(host, instance="81", generation=OLD):
    """A worker that systemd no longer restarts."""
    host.link(instance, generation)
    host.set_ended_process(instance, ActiveState="failed", SubState="failed", UnitFileState="enabled")


def test_an_update(host):
    host.worker()
    failed(host)
    os.utime(host.home / "instances/80", (100, 100), follow_symlinks=False)
    result = plan(instances=["80", "81", "82"])
    assert result["turns"] == [
        {"instance": "81", "generation": NEW, "fallback": OLD},
        {"instance": "80", "generation": NEW, "fallback": OLD},
    ]
    assert (result["kind"], result["new"], result["idle"], result["surplus"]) == ("update", ["82"], [], [])
    assert result["pending"] == ["10.0.0.1:8081"]
    assert plan(instances=["80", "81", "82"], check=True)["pending"] == ["10.0.0.1:8081", "10.0.0.1:8082"]
    assert plan(generation=OLD, instances=["80"])["surplus"] == ["81"]


def test_a_restart_and_its_remainder(host):
    host.worker()
    host.set_process(os.getpid(), "81", ExecMainStartTimestamp=f"@{int(time.time()) + 100}")
    host.link("81")
    assert [turn["instance"] for turn in plan("restart")["turns"]] == ["80"], "81 is younger"
    assert state("open", "restart", check=True)["changed"]
    assert [turn["instance"] for turn in plan("restart", check=True)["turns"]] == ["80"]
    assert not (host.home / "restart-asked").exists()
    assert state("open", "restart")["changed"]
    assert not state("open", "restart")["changed"]
    os.utime(host.home / "restart-asked", (5, 5))
    assert plan("restart")["turns"] == [], "both are younger than that"
    assert state("closed", "restart", check=True)["changed"]
    assert state("closed", "restart")["changed"]
    assert not state("closed", "restart")["changed"]


def test_a_rollback(host):
    host.worker()
    os.utime(host.home / "instances/80", (100, 100), follow_symlinks=False)
    assert not plan("rollback")["recorded"]
    assert state("open", "update")["changed"]
    result = plan("rollback")
    assert (result["turns"], result["recorded"]) == ([], True)
    host.link("80", NEW)
    assert plan("rollback")["turns"] == [{"instance": "80", "generation": OLD, "fallback": NEW}]
    assert not state("open", "rollback")["changed"], "it has nothing to record"
    assert state("closed", "rollback", check=True) == state("closed", "rollback")
    assert plan("rollback")["recorded"]


@pytest.mark.parametrize(("asked_at", "is_over"), [(1795529804, True), (1795529805, False)])
def test_an_update_ends_a_superfluous_restart(host, asked_at, is_over):
    host.worker()
    mark = host.home / "restart-asked"
    mark.touch()
    os.utime(mark, (asked_at, asked_at))
    assert state("closed", "update")["changed"] == is_over
    assert mark.exists() != is_over


def test_a_drain_that_an_interrupted_run_left(host):
    host.worker()
    os.utime(host.home / "instances/80", (100, 100), follow_symlinks=False)
    Control(host.socket()).drain("rollout", 0.0)
    assert plan(generation=OLD)["abandoned"] == ["80"]
    assert plan(generation=NEW)["abandoned"] == []


def test_nothing_is_deleted_in_check_mode(host):
    host.link("80", OLD)
    host.link("80", NEW)
    for check in (True, False):
        result = state("closed", "update", check=check, keep=1)
        assert result["changed"]
        assert result["removed"] == [f"generations/{OLD}", "releases/1.0+abc"]
        assert (host.home / "generations" / OLD).exists() == check
    assert state("closed", "update", keep=1) == {"failed": False, "changed": False, "removed": []} | {
        key: value for key, value in result.items() if key == "invocation"
    }


def test_check_mode_on_a_bare_host(host, monkeypatch):
    monkeypatch.setattr(_instance, "HOME", host.home / "absent")
    result = plan(check=True)
    assert (result["new"], result["turns"], result["pending"]) == (["80", "81"], [], ENDPOINTS[:2])
    assert plan("restart", check=True)["turns"] == []
    assert plan("rollback", check=True)["recorded"] is False
    assert state("open", "update", check=True)["changed"]
    assert not state("closed", "update", check=True)["changed"]
    assert not gate(instance=None, check=True)["failed"]


def test_the_gate_opens(host):
    worker = host.worker()
    other = f"127.0.0.1:{worker.port}"
    result = gate(fleet=[*ENDPOINTS, other])
    assert not result["failed"], result
    assert not result["changed"]
    assert (result["worker"]["instance"], result["worker"]["state"]) == ("80", "ready")
    assert result["worker"]["pid"] == worker.process.pid
    assert [each["instance"] for each in result["workers"]] == ["80"]


def test_the_gate_names_workers_that_are_not_ready(host, clock):
    host.worker()
    failed(host)
    other = f"127.0.0.1:{free_port()}"
    result = gate(fleet=[*ENDPOINTS, other])
    assert result["failed"]
    assert result["msg"].startswith(
        "Worker 80 of one was not touched: its clients need the other workers, and these are not ready: "
        f"81 of one (failed), {other} (no answer: "
    )
    assert "Once all of them are ready, run this playbook again." in result["msg"]
    assert len(result["missing"]) == 2
    assert sum(clock.sleeps) == 20 + 10
    assert not gate(instance="81", fleet=[*ENDPOINTS, other])["failed"], (
        "it serves no client, so the gate asks no other worker"
    )


def test_the_gate_does_not_wait_for_what_the_rollout_repairs(host):
    host.worker()
    failed(host)
    other = f"127.0.0.1:{free_port()}"
    pending = [other, ENDPOINTS[1]]
    assert gate(fleet=[*ENDPOINTS, other], pending=pending)["missing"] == ["81 of one (failed)"], "it had its turn"
    assert not gate(fleet=[*ENDPOINTS, other], pending=pending, check=True)["failed"], "it would have had its turn"


def test_the_gate_respects_the_drain_of_an_operator(host):
    host.worker()
    host.link("81")
    Control(host.socket()).drain("alice smith", 0.0)
    result = gate(instance="81")
    assert result["msg"] == (
        "Worker 81 of one was not touched: alice smith has drained worker 80. A rollout neither ends that drain nor sends "
        "more clients away meanwhile. When alice smith is done, let clients in there again "
        "(ws-server ctl undrain --instance 80 --by 'alice smith'), then run this playbook again."
    )


def test_a_host_leaves_when_the_others_are_ready(host, clock):
    worker = host.worker()
    result = gate(instance=None, fleet=[*ENDPOINTS, f"127.0.0.1:{worker.port}"])
    assert [each["instance"] for each in result["workers"]] == ["80"]
    lost = f"127.0.0.1:{free_port()}"
    result = gate(instance=None, fleet=[*ENDPOINTS, lost])
    assert result["msg"].startswith(
        "one stays in the fleet: its clients need the workers of the other hosts, and these are not ready: "
        f"{lost} (no answer: "
    )
    Control(host.socket()).drain("olga", 0.0)
    assert not gate(instance=None, fleet=[*ENDPOINTS, lost])["failed"], "no client needs them"


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (
            rollout_plan,
            {"kind": "update"},
            "kind is update but all of the following are missing: instances, generation",
        ),
        (rollout_plan, {"kind": "update", "instances": ["8080"], "generation": NEW}, "'8080' is not a worker's name"),
        (rollout_gate, {"host": "one", "instance": "all"}, "'all' is not a worker's name"),
        (rollout_gate, {"host": "one", "instance": "80"}, "one has no worker 80."),
        (rollout_state, {"state": "closed", "kind": "update", "keep": 0}, "keep is 0: set it to a number"),
    ],
)
def test_refused_options(host, module, options, message):
    result = run(module, **options)
    assert result["failed"]
    assert message in result["msg"]


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (rollout_plan, {"kind": "restart"}),
        (rollout_gate, {"host": "one", "instance": "80"}),
        (rollout_state, {"state": "closed", "kind": "update"}),
    ],
)
def test_systemd_that_cannot_be_asked_is_an_error(host, module, options):
    host.link()
    host.programs.joinpath("systemctl").write_text("#!/bin/sh\necho 'no bus' >&2; exit 1\n")
    assert "systemctl show failed: no bus" in run(module, **options)["msg"]
