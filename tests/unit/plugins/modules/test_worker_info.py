# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""worker_info on a host with workers in different states."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest
from hosts import listener, run

from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control
from ansible_collections.selfhost.websocket.plugins.modules import worker_info


def info(*instances):
    return run(worker_info, **({"instances": list(instances)} if instances else {}))


def free_instance() -> tuple[str, str]:
    """A name whose port nothing uses."""
    for port in range(8081, 8100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return str(port)[2:], str(port)
    pytest.fail("there is no free port for a worker")


def test_a_running_worker(host):
    worker = host.worker()
    client = host.guest(worker)
    client.send('{"type":"join","room":"lobby"}')
    client.recv(30)
    result = info()
    assert not result["failed"], result
    assert (result["changed"], result["ready"]) == (False, 1)
    [facts] = result["workers"]
    assert facts["uptime_s"] == pytest.approx(time.time() - facts["started_at"], abs=60)
    assert facts["linked_at"] == host.home.joinpath("instances/80").lstat().st_mtime
    del facts["uptime_s"], facts["linked_at"]
    assert facts == {
        "instance": "80",
        "state": "ready",
        "ready": True,
        "version": "0.1.0",
        "generation": "1.0+abc-12345678",
        "generation_before": None,
        "serving": True,
        "pid": worker.process.pid,
        "started_at": Control(host.socket()).status().started_at,
        "last_started_at": 1795529805,
        "connections": 1,
        "rooms": 1,
        "drained_by": [],
        "broker": {"available": True, "fullness": 0.0, "disk_full": False},
        "archive": None,
        "complaint": None,
    }


def test_a_drained_worker(host):
    host.worker()
    Control(host.socket()).drain("olga", 0.0)
    [facts] = info()["workers"]
    assert facts["state"] in ("draining", "drained")
    assert (facts["ready"], facts["drained_by"]) == (False, ["olga"])


def test_a_hung_worker_delays_no_other_and_is_named(host):
    host.start()
    stuck = host.start("81")
    stuck.signal(signal.SIGSTOP)
    result = info()
    assert [facts["state"] for facts in result["workers"]] == ["ready", "unresponsive"]
    assert result["ready"] == 1
    facts = result["workers"][1]
    assert (facts["pid"], facts["connections"], facts["version"]) == (stuck.process.pid, None, "1.0+abc")
    assert facts["complaint"] == f"does not answer at {host.socket('81')} within 5 s"
    stuck.signal(signal.SIGCONT)


def test_a_worker_without_a_control_socket(host):
    name, port = free_instance()
    worker = host.start(name, PORT=port, WS_CONTROL_SOCKET="")
    [facts] = info()["workers"]
    assert (facts["state"], facts["ready"], facts["pid"]) == ("ready", True, worker.process.pid)
    assert (facts["version"], facts["started_at"], facts["connections"]) == ("1.0+abc", 1795529805, None)
    assert "has no process that serves" in facts["complaint"]
    worker.signal(signal.SIGSTOP)
    assert info()["workers"][0]["state"] == "not_ready"
    worker.signal(signal.SIGCONT)


def test_workers_that_do_not_run(host):
    for name in ("80", "81", "82", "83"):
        host.link(name)
    host.set_ended_process("81", ActiveState="failed", SubState="failed")
    host.set_ended_process("82", ActiveState="activating", SubState="auto-restart")
    result = info("83", "82", "81", "80", "90")
    assert [(facts["instance"], facts["state"]) for facts in result["workers"]] == [
        ("80", "down"),
        ("81", "failed"),
        ("82", "starting"),
        ("83", "down"),
        ("90", "absent"),
    ]
    assert result["ready"] == 0
    down = result["workers"][0]
    assert (down["pid"], down["connections"], down["rooms"], down["uptime_s"], down["complaint"]) == (
        None,
        0,
        0,
        None,
        None,
    )
    assert (down["version"], down["generation"]) == ("1.0+abc", "1.0+abc-12345678")
    absent = result["workers"][4]
    assert (absent["version"], absent["generation"], absent["linked_at"], absent["serving"]) == (
        None,
        None,
        None,
        False,
    )


@pytest.mark.parametrize(
    ("properties", "serving"),
    [
        ({}, True),
        ({"UnitFileState": "disabled"}, False),
        ({"UnitFileState": "enabled-runtime"}, False),
        ({"ActiveState": "activating"}, False),
    ],
)
def test_a_serving_worker_runs_now_and_after_a_reboot(host, properties, serving):
    host.link()
    host.set_process(os.getpid(), **properties)
    assert info()["workers"][0]["serving"] is serving


def test_the_generation_before_an_open_rollout(host):
    """The earlier generation until the rollout closes, and the start of the last process."""
    host.link("80", "1.0+abc-12345678")
    host.home.joinpath("instances").rename(host.home / "before")
    host.home.joinpath("instances").mkdir()
    host.link("80", "2.0+def-87654321")
    host.link("81", "2.0+def-87654321")
    host.set_ended_process("80", ActiveState="failed", ExecMainStartTimestamp="@1795529805")
    assert [facts["generation_before"] for facts in info()["workers"]] == [None, None]
    host.home.joinpath("before/.unfinished").touch()
    changed, new = info()["workers"]
    assert (changed["generation"], changed["generation_before"]) == ("2.0+def-87654321", "1.0+abc-12345678")
    assert (changed["started_at"], changed["last_started_at"]) == (None, 1795529805)
    assert (new["generation_before"], new["last_started_at"]) == (None, None)


def test_a_worker_with_an_invalid_answer(host):
    host.link()
    host.set_process(os.getpid())
    with listener(host.socket()) as server:

        def talk_nonsense():
            connection, _address = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"220 mail.example.org ESMTP\n")

        other = threading.Thread(target=talk_nonsense)
        other.start()
        [facts] = info()["workers"]
        other.join()
    assert (facts["state"], facts["ready"]) == ("unknown", False)
    assert facts["complaint"].startswith("answers what this collection does not understand: 220 mail")


def test_a_host_without_workers(host):
    result = info()
    assert (result["failed"], result["workers"], result["ready"]) == (False, [], 0)


def test_other_files_among_the_instances_are_ignored(host):
    host.link()
    host.home.joinpath("instances", "80.new").write_text("")
    assert [facts["instance"] for facts in info()["workers"]] == ["80"]


def test_an_invalid_name_is_refused(host):
    result = info("80", "all")
    assert result["failed"]
    assert "'all' is not a worker's name" in result["msg"]


def test_systemd_that_cannot_be_asked_is_an_error(host):
    host.link()
    host.programs.joinpath("systemctl").write_text("#!/bin/sh\necho 'no bus' >&2; exit 1\n")
    assert info()["msg"] == "The state of the workers cannot be read: systemctl show failed: no bus"
