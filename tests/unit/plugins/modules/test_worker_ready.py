# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""worker_ready on real workers, and with systemd's output for workers that do not start."""

from __future__ import annotations

import signal

import pytest
from hosts import run

from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control
from ansible_collections.selfhost.websocket.plugins.modules import worker_ready

VERSION = "0.1.0"


def gate(worker=None, check=False, **arguments):
    url = {"url": f"http://127.0.0.1:{worker.port}/readyz"} if worker else {}
    return run(worker_ready, check, **{"instance": "80", "timeout_s": 60, **url, **arguments})


@pytest.fixture
def no_listener(host):
    """No program listens at the address of the worker's settings."""
    host.link(env='WS_LISTEN_ADDRESS="127.0.0.2"\n')
    return "http://127.0.0.2:8080/readyz"


def test_a_ready_worker_passes(host):
    worker = host.worker()
    result = gate(worker, version=VERSION, generation="1.0+abc-12345678")
    assert not result["failed"], result
    assert not result["changed"]
    assert result["msg"].startswith(f"Worker 80 is ready, process {worker.process.pid} with version {VERSION}, after ")
    assert (result["ready"], result["attempts"], result["successes_in_a_row"]) == (True, 3, 3)
    assert (result["pid"], result["version"], result["generation"]) == (worker.process.pid, VERSION, "1.0+abc-12345678")
    assert result["started_at"] == Control(host.socket()).status().started_at
    assert (result["last_answer"], result["restarts"], result["held_s"]) == ("200 ready", 0, 0)


def test_a_worker_without_a_control_socket_passes_with_systemds_process_and_its_releases_version(host):
    worker = host.start(WS_CONTROL_SOCKET="")
    result = gate(worker, version="1.0+abc", successes=1)
    assert not result["failed"], result
    assert (result["pid"], result["version"], result["started_at"]) == (worker.process.pid, "1.0+abc", 1795529805)


def test_the_old_process_does_not_pass(host):
    worker = host.worker()
    status = Control(host.socket()).status()
    result = gate(worker, previous_pid=status.pid, previous_started_at=status.started_at, timeout_s=0.5, version="2")
    assert result["failed"]
    assert result["cause"] == (
        f"Worker 80 was not ready within 0.5 s: process {status.pid} is still the old one, which should have been replaced."
    )
    assert (result["ready"], result["successes_in_a_row"]) == (False, 0)


@pytest.mark.parametrize("known", ["previous_pid", "previous_started_at"])
def test_the_new_process_passes(host, known):
    worker = host.start()
    before = Control(host.socket()).status()
    worker.signal(signal.SIGTERM)
    worker.start_again()
    host.set_process(worker.process.pid)
    previous = {"previous_pid": before.pid, "previous_started_at": before.started_at}
    result = gate(worker, **{known: previous[known]})
    assert not result["failed"], result
    assert result["pid"] == worker.process.pid


def test_the_wrong_version_is_noticed_at_once(host):
    worker = host.worker()
    host.log(
        '{"event":"ready","instance":"80","version":"0.1.0","level":"info","timestamp":"2026-11-24T14:16:46.24Z"}',
        "Started.",
    )
    result = gate(worker, version="0.2.0+abc")
    assert result["failed"]
    assert result["cause"] == "Worker 80 is ready with the version 0.1.0, and 0.2.0+abc was expected."
    assert result["log"] == ["14:16:46 info ready version=0.1.0", "Started."]
    assert result["msg"].splitlines() == [
        result["cause"],
        "The last lines of its log:",
        "  14:16:46 info ready version=0.1.0",
        "  Started.",
    ]
    assert (result["attempts"], result["version"]) == (1, VERSION)


def test_the_wrong_generation_is_noticed_at_once(host):
    worker = host.worker()
    result = gate(worker, generation="2.0+def-87654321")
    assert result["cause"] == "Worker 80 has the generation 1.0+abc-12345678, and 2.0+def-87654321 was expected."
    assert result["attempts"] == 1


def test_a_worker_that_is_not_ready_in_time(host):
    worker = host.worker()
    Control(host.socket()).drain("olga", 0.0)
    result = gate(worker, timeout_s=0.5)
    assert result["failed"]
    assert result["cause"].startswith(
        "Worker 80 was not ready within 0.5 s: its unit is active (running), and http://127.0.0.1:"
    )
    assert result["cause"].endswith(f"said: {result['last_answer']}.")
    assert result["last_answer"] in ("503 not ready: draining", "503 not ready: drained")
    assert not result["ready"]


@pytest.mark.parametrize(
    ("properties", "cause"),
    [
        (
            {
                "ActiveState": "failed",
                "SubState": "failed",
                "Result": "exit-code",
                "ExecMainCode": 1,
                "ExecMainStatus": 2,
            },
            "has failed and is not restarted: it ended with exit status 2: it refuses its settings.",
        ),
        (
            {"ActiveState": "failed", "SubState": "failed", "Result": "resources"},
            "has failed and is not restarted: it could not be set up: a file that its unit needs is missing.",
        ),
        ({}, "is stopped, and no start is queued: systemctl start ws-server@80.service."),
        (
            {"LoadState": "not-found"},
            "cannot start: systemd finds no unit ws-server@80.service that it can load.",
        ),
    ],
)
def test_a_worker_that_cannot_become_ready_is_noticed_at_once(host, no_listener, properties, cause):
    host.set_ended_process(**properties)
    result = gate()
    assert result["failed"]
    assert result["cause"] == f"Worker 80 {cause}"
    assert (result["attempts"], result["pid"], result["url"]) == (1, None, no_listener)
    assert result["last_answer"].startswith("no answer: ")


def test_a_canary_that_stays_ready_passes(host):
    worker = host.worker()
    result = gate(worker, hold_s=1.5, successes=1)
    assert not result["failed"], result
    assert result["held_s"] >= 1.5
    assert result["successes_in_a_row"] == 1


def test_check_mode_looks_once_and_never_fails(host, no_listener):
    result = gate(check=True, previous_pid=1, version="2")
    assert not result["failed"], result
    assert result["msg"] == "Would wait until worker 80 is ready."
    assert (result["ready"], result["attempts"]) == (False, 1)
    worker = host.worker()
    assert gate(worker, check=True)["ready"]


def test_systemd_that_cannot_be_asked_is_an_error(host):
    worker = host.worker()
    host.programs.joinpath("systemctl").write_text("#!/bin/sh\necho 'no bus' >&2; exit 1\n")
    host.programs.joinpath("journalctl").write_text("#!/bin/sh\necho 'no journal' >&2; exit 1\n")
    result = gate(worker)
    assert result["cause"] == "Worker 80 cannot be watched: systemctl show failed: no bus."
    assert result["log"] == ["(no log: no journal)"]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"instance": "x"}, "'x' is not a worker's name"), ({"successes": 0}, "successes is 0")]
)
def test_invalid_arguments_are_refused(host, arguments, message):
    result = gate(**arguments)
    assert result["failed"]
    assert message in result["msg"]
