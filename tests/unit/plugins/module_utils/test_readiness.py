# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The readiness gate, with a clock that the test advances."""

from __future__ import annotations

import os
import re
import signal

import pytest
from hosts import command

from ansible_collections.selfhost.websocket.plugins.module_utils import _readiness, _readyz
from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control
from ansible_collections.selfhost.websocket.plugins.module_utils._readiness import Expected, Gate
from ansible_collections.selfhost.websocket.plugins.module_utils._worker import Worker, WorkerError

GOOD = _readyz.Answer(200, "ready")
BAD = _readyz.Answer(503, "not ready: the broker is unavailable")


@pytest.fixture
def answers(monkeypatch):
    """The answers of /readyz, one after the other. The last one repeats."""
    told = [GOOD]
    monkeypatch.setattr(_readiness._readyz, "ask", lambda url: told.pop(0) if len(told) > 1 else told[0])
    return told


@pytest.fixture
def gate(host, clock):
    """The gate of worker 80, which is process 1 for systemd."""

    def make(**expected):
        return Gate(Worker(command, "80"), "http://x/readyz", Expected(**expected), clock)

    host.link()
    host.set_process(1)
    return make


def crash(host, times):
    """The process has ended, and systemd waits before the next start."""
    host.set_process(None)
    host.set_ended_process(
        ActiveState="activating",
        SubState="auto-restart",
        Result="exit-code",
        ExecMainCode=1,
        ExecMainStatus=1,
        NRestarts=times,
    )


def test_good_answers_must_come_in_a_row(gate, clock, answers):
    answers[:] = [BAD, GOOD, GOOD, BAD, GOOD]
    one = gate()
    one.open(3, 60)
    assert one.result()["attempts"] == 7
    assert clock.sleeps == [0.1, 0.15, 0.225, 0.338, 0.506, 0.759]


def test_good_answers_must_come_from_one_process(gate, clock, answers, host):
    clock.meanwhile = [lambda: None, lambda: host.set_process(os.getpid())]
    one = gate()
    one.open(3, 60)
    assert (one.result()["attempts"], one.result()["pid"]) == (5, os.getpid())


def test_the_deadline(gate, clock, answers):
    answers[:] = [BAD]
    one = gate()
    with pytest.raises(WorkerError) as caught:
        one.open(3, 10)
    assert str(caught.value) == (
        "Worker 80 was not ready within 10 s: its unit is active (running), and http://x/readyz said: "
        "503 not ready: the broker is unavailable."
    )
    assert len(clock.sleeps) == 14
    assert one.result()["attempts"] == 15
    assert one.result()["seconds"] == 10


def test_too_few_good_answers_at_the_deadline(gate, clock, answers):
    with pytest.raises(WorkerError, match=r"within 0\.2 s: it was ready 3 times in a row, and 9 are needed\.$"):
        gate().open(9, 0.2)


def test_a_port_that_another_process_answers(gate, answers, host):
    crash(host, 0)
    with pytest.raises(
        WorkerError, match=r"http://x/readyz is answered, but not by ws-server@80\.service, which has no process"
    ):
        gate().open(1, 1)


@pytest.mark.parametrize(
    ("expected", "old"),
    [
        ({}, False),
        ({"previous_pid": 1}, True),
        ({"previous_pid": 2}, False),
        ({"previous_started_at": 1795529805.0}, True),
        ({"previous_started_at": 1795529000.5}, False),
        ({"previous_pid": 1, "previous_started_at": 1795529805.0}, True),
        ({"previous_pid": 1, "previous_started_at": 1795529000.0}, False),  # a PID can be reused
        ({"previous_pid": 2, "previous_started_at": 1795529805.0}, False),
    ],
)
def test_which_process_is_a_new_one(gate, answers, expected, old):
    one = gate(**expected)
    assert one.is_old(one.look()) is old
    assert one.result()["ready"] is not old


def test_the_gate_waits_for_a_worker_that_is_about_to_start(gate, clock, answers, host):
    """As after `systemctl start --no-block`, while the old failure still stands."""
    host.set_process(None)
    host.set_ended_process(ActiveState="failed", Result="exit-code", ExecMainCode=1, ExecMainStatus=1, Job=7)
    answers[:] = [_readyz.Answer(None, "no answer: refused"), GOOD]
    clock.meanwhile = [lambda: host.set_process(1)]
    one = gate()
    one.open(1, 60)
    assert (one.result()["attempts"], one.result()["pid"]) == (2, 1)


def test_a_crash_loop_is_noticed(gate, clock, answers, host):
    answers[:] = [_readyz.Answer(None, "no answer: refused")]
    crash(host, 5)  # what was before does not count
    clock.meanwhile = [lambda count=count: crash(host, count) for count in (0, 0, 1, 2, 3)]
    one = gate()
    with pytest.raises(
        WorkerError, match=r"^Worker 80 crashes repeatedly, 3 times in 1 s: it ended with exit status 1\.$"
    ):
        one.open(1, 60)
    assert one.result()["attempts"] == 6
    assert one.result()["restarts"] == 3


def test_a_crash_loop_that_only_shows_in_new_processes_is_noticed(gate, clock, answers, host, monkeypatch):
    """An operator who restarts the unit repeatedly resets systemd's count."""
    answers[:] = [BAD]
    alive = [1, *_some_living_processes(host, 3)]
    clock.meanwhile = [lambda pid=pid: host.set_process(pid) for pid in alive[1:]]
    one = gate()
    with pytest.raises(WorkerError, match=r"crashes repeatedly, 3 times in \d s: it ended, and its log may say why\.$"):
        one.open(1, 60)


def _some_living_processes(host, count):
    return [host.start(str(name)).process.pid for name in range(81, 81 + count)]


# On a real worker.


def test_a_worker_that_crashed_between_two_gates_is_refused(gate, host):
    host.set_process(os.getpid())
    with pytest.raises(WorkerError, match=rf"its process 1 ended, replaced by process {os.getpid()}: it ended"):
        gate(pid=1).open(3, 60)
    crash(host, 1)
    with pytest.raises(WorkerError, match=r"its process 1 ended: it ended with exit status 1"):
        gate(pid=1).open(3, 60)


def test_the_process_that_an_earlier_gate_let_through_stays_good(gate, answers):
    gate(pid=1).open(3, 60)


@pytest.fixture
def canary(host, clock):
    """A worker that has passed the gate and must stay ready."""
    worker = host.start()
    gate = Gate(Worker(command, "80"), f"http://127.0.0.1:{worker.port}/readyz", Expected(), clock)
    gate.open(1, 60)
    clock.sleeps.clear()
    return worker, gate


def test_a_canary_that_stays_ready(canary, clock):
    worker, gate = canary
    gate.hold(30)
    assert sum(clock.sleeps) == pytest.approx(30, abs=0.01)
    assert len(clock.sleeps) == 34
    assert (gate.result()["held_s"], gate.result()["pid"]) == (30, worker.process.pid)


def test_a_canary_that_crashes(canary, clock, host):
    worker, gate = canary
    host.set_ended_process(
        ActiveState="activating", SubState="auto-restart", Result="signal", ExecMainCode=2, ExecMainStatus=9
    )

    def die():
        worker.signal(signal.SIGKILL)
        worker.wait()

    clock.meanwhile = [lambda: None, die]
    with pytest.raises(WorkerError) as caught:
        gate.hold(30)
    assert str(caught.value) == (
        f"Worker 80 was ready, and 0.2 s later its process {worker.process.pid} had ended: it was ended by signal 9."
    )
    assert (gate.result()["pid"], gate.result()["ready"], gate.result()["held_s"]) == (None, False, 0.25)


def test_a_canary_that_crashes_unseen(canary, clock, host):
    worker, gate = canary
    old = worker.process.pid

    def crash_and_come_back():
        worker.signal(signal.SIGKILL)
        worker.start_again()
        host.set_process(worker.process.pid)

    clock.meanwhile = [crash_and_come_back]
    with pytest.raises(WorkerError, match=rf"its process {old} (had )?ended, replaced by process \d+: it ended"):
        gate.hold(30)


def test_a_canary_that_is_no_longer_ready(canary, clock, host):
    _worker, gate = canary
    clock.meanwhile = [lambda: Control(host.socket()).drain("olga", 0.0)]
    with pytest.raises(WorkerError) as caught:
        gate.hold(30)
    assert re.search(r"was ready, and 0\.1 s later it was not: http://\S+ said 503 not ready: drain", str(caught.value))


def test_without_a_hold_time_there_is_no_wait(canary, clock):
    _worker, gate = canary
    gate.hold(0)
    assert clock.sleeps == []
