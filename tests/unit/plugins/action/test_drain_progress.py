# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The progress reports of a drain. The module runs in this process, partly with real workers."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hosts import run

from ansible_collections.selfhost.websocket.plugins.action.worker_drain import ActionModule
from ansible_collections.selfhost.websocket.plugins.module_utils import _draining
from ansible_collections.selfhost.websocket.plugins.modules import worker_drain


class Action(ActionModule):
    """Records its output instead of showing it, and runs the module by `execute`."""

    def __init__(self, execute, args, check=False, delegate_to=None):
        task = SimpleNamespace(args=args, check_mode=check, async_val=0, delegate_to=delegate_to, action="worker_drain")
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/tmp"))
        super().__init__(task, connection, None, None, None)
        self.shown = []
        self._display = SimpleNamespace(display=self.shown.append)
        self._execute = execute
        self.asked = []

    def _execute_module(self, module_name, module_args, task_vars):
        assert module_name == "selfhost.websocket.worker_drain"
        self.asked.append(module_args)
        return self._execute(module_args)


def play(*results, args=None, **options):
    """A task whose module returns these results, one after the other."""
    given = list(results)
    action = Action(lambda _args: given.pop(0), args or {"instance": "80"}, **options)
    result = action.run(task_vars={"inventory_hostname": "vps1"})
    assert given == []
    return result, action


def so_far(before, left, seconds):
    looked = {"connections_before": before, "connections_after": left, "seconds": seconds}
    return {"instance": "80", "changed": True, "so_far": {"began": 3.5}, **looked}


DONE = {"changed": True, "msg": "Worker 80 is drained of 20000 connections after 17.4 s.", "state": "drained"}


def test_the_progress_shows_the_remaining_connections():
    result, action = play(so_far(20000, 15100, 5.2), so_far(20000, 8412, 10.3), DONE)
    assert action.shown == [
        "Worker 80 of vps1: 15,100 of 20,000 connections left, after 5 s, about 16 s to go.",
        "Worker 80 of vps1: 8,412 of 20,000 connections left, after 10 s, about 7 s to go.",
    ]
    assert result == DONE
    assert action.asked == [
        {"instance": "80", "so_far": {}},
        *[{"instance": "80", "so_far": {"began": 3.5}}] * 2,
    ]


def test_no_estimate_before_the_first_client_leaves():
    _result, action = play(so_far(12, 12, 5.1), DONE)
    assert action.shown == ["Worker 80 of vps1: 12 of 12 connections left, after 5 s."]


def test_the_host_is_the_one_that_has_the_worker():
    _result, action = play(so_far(12, 6, 5.0), DONE, delegate_to="vps2")
    assert action.shown == ["Worker 80 of vps2: 6 of 12 connections left, after 5 s, about 5 s to go."]


@pytest.mark.parametrize(
    "result",
    [
        DONE,
        {
            "failed": True,
            "changed": True,
            "msg": "Worker 80 has 4 of 10 connections left after 60 s.",
            "state": "draining",
        },
        {"unreachable": True, "msg": "Failed to connect to the host via ssh"},
        {"failed": True, "msg": "MODULE FAILURE", "rc": 137},
    ],
)
def test_the_last_result_is_the_result_of_the_drain(result):
    assert play(dict(result))[0] == result
    given, action = play(so_far(20, 10, 5.0), dict(result))
    assert given == result
    assert len(action.shown) == 1


# With the module, on a real worker.


@pytest.fixture
def drain(monkeypatch):
    """Slices of a fifth of a second. A client that ignores the request stays for 1.5 s."""
    monkeypatch.setattr(_draining, "_SLICE_S", 0.2)

    def run_action(check=False, **args):
        action = Action(
            lambda given: run(worker_drain, check, **given), {"instance": "80", "window_s": 0, **args}, check
        )
        return action.run(task_vars={"inventory_hostname": "vps1"}), action.shown

    return run_action


def test_a_drain_in_slices(host, drain):
    worker = host.worker()
    for user in ("alice", "bob", "carol"):
        host.guest(worker, user)
    result, shown = drain()
    assert re.match(r"Worker 80 of vps1: [1-3] of 3 connections left, after \d+ s", shown[0])
    assert not result["failed"], result
    assert result["changed"]
    assert (result["connections_before"], result["connections_after"], result["closed"], result["forced"]) == (
        3,
        0,
        3,
        0,
    )
    assert result["diff"]["before"] == {"state": "ready", "drained_by": [], "connections": 3}
    assert result["diff"]["after"] == {"state": "drained", "drained_by": ["ansible"], "connections": 0}
    assert result["seconds"] > 1.4
    assert result["timeline"][0] | {"seconds": 0} == {"seconds": 0, "connections": 3, "state": "draining"}
    assert result["timeline"][-1] | {"seconds": 0} == {"seconds": 0, "connections": 0, "state": "drained"}
    assert re.fullmatch(r"Worker 80 is drained of 3 connections after [\d.]+ s\.", result["msg"])
    assert "so_far" not in result
    again, shown = drain()
    assert (again["changed"], again["msg"], shown) == (False, "Worker 80 was drained by ansible already.", [])


def test_the_deadline_of_the_whole(host, drain):
    worker = host.worker()
    host.guest(worker)
    result, shown = drain(timeout_s=0.7)
    assert result["failed"]
    assert result["changed"]
    assert result["msg"].startswith("Worker 80 has 1 of 1 connections left after 0.7 s. It continues to drain")
    assert shown
    result, _shown = drain(timeout_s=0.3, on_timeout="force")
    assert not result["failed"], result
    assert result["closed"] + result["forced"] == 1


def test_check_mode_and_undrain_have_no_slices(host, drain):
    worker = host.worker()
    host.guest(worker)
    result, shown = drain(check=True)
    assert (result["changed"], result["msg"], shown) == (True, "Worker 80 would close 1 connections.", [])
    drain()
    result, shown = drain(state="undrained")
    assert (result["changed"], result["msg"], shown) == (True, "Worker 80 lets clients in again.", [])
