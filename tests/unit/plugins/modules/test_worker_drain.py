# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""worker_drain on real workers with connected clients."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading

import pytest
from hosts import listener, run

from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control
from ansible_collections.selfhost.websocket.plugins.modules import worker_drain


def drain(check=False, **arguments):
    return run(worker_drain, check, **{"instance": "80", "window_s": 0, "timeout_s": 60, **arguments})


def undrain(check=False, **arguments):
    return run(worker_drain, check, instance="80", state="undrained", **arguments)


def status(host):
    return Control(host.socket()).status()


def test_clients_leave_and_the_process_keeps_running(host):
    worker = host.worker()
    clients = [host.guest(worker, user) for user in ("alice", "bob", "carol")]
    result = drain()
    assert not result["failed"], result
    assert result["changed"]
    assert (result["state"], result["drained_by"]) == ("drained", ["ansible"])
    assert (result["connections_before"], result["connections_after"]) == (3, 0)
    assert (result["closed"], result["forced"]) == (3, 0)
    assert result["diff"] == {
        "before": {"state": "ready", "drained_by": [], "connections": 3},
        "after": {"state": "drained", "drained_by": ["ansible"], "connections": 0},
    }
    assert re.fullmatch(r"Worker 80 is drained of 3 connections after [\d.]+ s\.", result["msg"])
    timeline = result["timeline"]
    assert timeline[0] | {"seconds": 0} == {"seconds": 0, "connections": 3, "state": "draining"}
    assert timeline[-1] | {"seconds": 0} == {"seconds": 0, "connections": 0, "state": "drained"}
    assert [entry["seconds"] for entry in timeline] == sorted(entry["seconds"] for entry in timeline)
    assert timeline[-1]["seconds"] <= result["seconds"]
    for client in clients:
        reasons = [json.loads(message)["type"] for message in client]
        assert reasons[0] == "reconnect"
        assert client.close_code == 1001
    assert worker.process.poll() is None


def test_a_second_run_changes_nothing(host):
    host.worker()
    assert drain()["changed"]
    again = drain()
    assert not again["changed"]
    assert again["msg"] == "Worker 80 was drained by ansible already."
    assert (again["state"], again["drained_by"], again["timeline"]) == ("drained", ["ansible"], [])


def test_a_running_drain_with_the_same_name_is_joined(host):
    worker = host.worker()
    host.guest(worker)
    Control(host.socket()).drain("ansible", 0.0)
    result = drain()
    assert not result["failed"], result
    assert (result["state"], result["drained_by"]) == ("drained", ["ansible"])
    assert (result["connections_before"], result["closed"]) == (1, 1)


def test_an_operators_drain_is_joined_and_never_undone(host):
    host.worker()
    Control(host.socket()).drain("olga", None)
    result = drain()
    assert result["changed"]
    assert result["drained_by"] == ["olga", "ansible"]

    result = undrain()
    assert result["changed"]
    assert (result["state"], result["drained_by"]) == ("drained", ["olga"])
    assert result["msg"] == "Worker 80 stays drained by olga."
    assert status(host).drained_by == ["olga"]

    again = undrain()
    assert not again["changed"]
    assert again["msg"] == "Worker 80 stays drained by olga."
    assert status(host).drained_by == ["olga"]


def test_undrained_lets_clients_in_again(host):
    worker = host.worker()
    drain()
    result = undrain()
    assert result["changed"]
    assert (result["state"], result["drained_by"]) == ("ready", [])
    assert result["msg"] == "Worker 80 lets clients in again."
    host.guest(worker)
    again = undrain()
    assert not again["changed"]
    assert again["msg"] == "Worker 80 was not drained by ansible."


def test_a_drain_with_another_name(host):
    host.worker()
    assert drain(by="maintenance")["drained_by"] == ["maintenance"]
    assert not undrain()["changed"]
    assert undrain(by="maintenance")["drained_by"] == []


def test_check_mode_predicts_a_drain_and_does_nothing(host):
    worker = host.worker()
    host.guest(worker)
    result = drain(check=True)
    assert result["changed"]
    assert result["msg"] == "Worker 80 would close 1 connections."
    assert result["diff"] == {
        "before": {"state": "ready", "drained_by": [], "connections": 1},
        "after": {"state": "drained", "drained_by": ["ansible"], "connections": 0},
    }
    assert not undrain(check=True)["changed"]
    assert (status(host).state, status(host).drained_by, status(host).connections) == ("ready", [], 1)

    drain()
    assert not drain(check=True)["changed"]
    result = undrain(check=True)
    assert result["changed"]
    assert result["msg"] == "Worker 80 would let clients in again."
    assert result["diff"]["after"] == {"state": "ready", "drained_by": [], "connections": 0}
    assert status(host).drained_by == ["ansible"]

    Control(host.socket()).drain("olga", None)
    result = undrain(check=True)
    assert result["msg"] == "Worker 80 would stay drained by olga."
    assert result["diff"]["after"] == {"state": "drained", "drained_by": ["olga"], "connections": 0}


def test_clients_that_are_left_at_the_deadline_are_an_error(host):
    worker = host.worker()
    host.guest(worker)
    result = drain(timeout_s=0)
    assert result["failed"]
    assert result["changed"]
    assert re.match(
        r"Worker 80 has 1 of 1 connections left after 0 s\. It continues to drain with the name ansible", result["msg"]
    )
    assert (result["connections_after"], result["closed"], result["forced"]) == (1, 0, 0)
    assert (result["state"], result["drained_by"]) == ("draining", ["ansible"])
    assert drain()["closed"] == 1  # the message says: run it again to wait longer


def test_clients_that_are_left_at_the_deadline_can_be_disconnected(host):
    worker = host.worker()
    host.guest(worker)
    host.guest(worker)
    result = drain(timeout_s=0, on_timeout="force")
    assert not result["failed"], result
    assert (result["state"], result["drained_by"]) == ("drained", ["ansible"])
    assert (result["connections_after"], result["closed"], result["forced"]) == (0, 0, 2)
    assert re.match(r"Worker 80 has closed 2 connections by force, after", result["msg"])


def test_a_worker_that_does_not_run_has_no_clients(host):
    host.link()
    for ask in (drain, undrain):
        result = ask()
        assert (result["failed"], result["changed"]) == (False, False)
        assert (result["state"], result["connections_before"], result["drained_by"]) == ("down", 0, [])
    assert drain()["msg"] == "Worker 80 does not run: there is nothing to drain."


def test_a_killed_worker_with_a_left_socket_has_no_clients(host):
    worker = host.start()
    worker.signal(signal.SIGKILL)
    worker.wait()
    assert drain()["state"] == "down"


def test_a_worker_that_never_existed_has_no_clients(host):
    assert drain(instance="97")["state"] == "absent"


def test_a_worker_without_a_control_socket_is_an_error_with_the_remedy(host):
    host.start(WS_CONTROL_SOCKET="")
    result = drain(timeout_s=0.5)
    assert result["failed"]
    assert not result["changed"]
    assert result["state"] == "unknown"
    assert "Worker 80 runs, but has no process that serves" in result["msg"]
    assert "systemctl restart ws-server@80.service" in result["msg"]


def test_a_worker_that_hangs_is_an_error_at_the_deadline(host):
    worker = host.start()
    worker.signal(signal.SIGSTOP)
    result = drain(timeout_s=0.5)
    assert result["failed"]
    assert result["msg"] == f"Worker 80 does not answer at {host.socket()} within 5 s."
    worker.signal(signal.SIGCONT)


def test_systemd_that_cannot_be_asked_is_an_error(host):
    host.programs.joinpath("systemctl").write_text("#!/bin/sh\necho 'no bus' >&2; exit 1\n")
    result = drain()
    assert result["failed"]
    assert "whether it runs is unknown: systemctl show failed: no bus" in result["msg"]


def test_another_program_at_the_socket_is_an_error(host):
    with listener(host.socket()) as server:

        def talk_nonsense():
            connection, _address = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"220 mail.example.org ESMTP\n")

        other = threading.Thread(target=talk_nonsense)
        other.start()
        result = drain()
        other.join()
    assert result["failed"]
    assert result["msg"].startswith("Worker 80 answers what this collection does not understand: 220 mail")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instance": "8080"}, "instance: '8080' is not a worker's name"),
        ({"instance": "../80"}, "instance: '../80' is not a worker's name"),
        ({"by": ""}, "by: a name of 1 to 128 characters"),
        ({"by": "x" * 129}, "by: a name of 1 to 128 characters"),
        ({"window_s": 601}, "window_s is 601: set it to a number of seconds from 0 to 600"),
        ({"window_s": -1}, "window_s is -1"),
    ],
)
def test_invalid_arguments_are_refused(host, arguments, message):
    result = drain(**arguments)
    assert result["failed"]
    assert message in result["msg"]


def test_another_socket(host):
    host.worker()
    elsewhere = host.directory / "elsewhere.sock"
    elsewhere.symlink_to(host.socket())
    assert drain(instance="99", socket=str(elsewhere))["drained_by"] == ["ansible"]
    with socket.socket(socket.AF_UNIX) as still:
        still.connect(host.socket())
