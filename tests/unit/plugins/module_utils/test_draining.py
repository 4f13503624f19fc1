# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A draining worker, with a clock that the test advances."""

from __future__ import annotations

import dataclasses
import json
import signal

import pytest
from hosts import command

from ansible_collections.selfhost.websocket.plugins.module_utils._control import (
    NotServedError,
    Status,
    UnansweredError,
)
from ansible_collections.selfhost.websocket.plugins.module_utils._draining import Draining
from ansible_collections.selfhost.websocket.plugins.module_utils._worker import Worker, WorkerError

READY = Status("1", 42, 3.5, 4, "ready", [], 10, 6, {"available": True}, None)
DRAINING = dataclasses.replace(READY, state="draining", drained_by=["ansible"])
DRAINED = dataclasses.replace(DRAINING, state="drained", connections=0)


def left(connections):
    return dataclasses.replace(DRAINING, connections=connections)


class Control:
    """Returns or raises the given answers, and then repeats the last one."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def _answer(self, asked):
        self.asked.append(asked)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def status(self):
        return self._answer("status")

    def drain(self, by, window_s):
        return self._answer(("drain", by, window_s))

    def undrain(self, by):
        return self._answer(("undrain", by))

    def hurry(self, by):
        return self._answer(("hurry", by))


@pytest.fixture
def draining(host, clock):
    """A drain of worker 80, which systemd runs and whose control socket gives these answers."""

    def make(*answers, timeout_s=60, so_far=None):
        worker = Worker(command, "80")
        worker.control = Control(*answers)
        return Draining(worker, "ansible", timeout_s, clock, so_far)

    host.link()
    host.set_process(1)
    return make


def asked(draining):
    return draining._worker.control.asked


def test_a_drain_is_checked_less_and_less_often(draining, clock):
    one = draining(READY, left(10), left(10), left(7), left(7), left(0), DRAINED)
    one.look()
    one.drain(5.0, force=False)
    assert asked(one) == ["status", ("drain", "ansible", 5.0), *["status"] * 5]
    assert clock.sleeps == [0.1, 0.15, 0.225, 0.338, 0.506]
    assert one.result() == {
        "instance": "80",
        "state": "drained",
        "drained_by": ["ansible"],
        "connections_before": 10,
        "connections_after": 0,
        "closed": 10,
        "forced": 0,
        "seconds": 1.32,
        "timeline": [
            {"seconds": 0.0, "connections": 10, "state": "draining"},
            {"seconds": 0.25, "connections": 7, "state": "draining"},
            {"seconds": 0.81, "connections": 0, "state": "draining"},
            {"seconds": 1.32, "connections": 0, "state": "drained"},
        ],
    }


def test_the_deadline(draining, clock):
    one = draining(READY, left(10), left(4), timeout_s=10)
    one.look()
    with pytest.raises(WorkerError, match=r"^Worker 80 has 4 of 10 connections left after 10 s\."):
        one.drain(None, force=False)
    assert sum(clock.sleeps) == pytest.approx(10, abs=0.01)
    assert len(clock.sleeps) == 14
    result = one.result()
    assert one.changed
    assert (result["connections_after"], result["closed"], result["forced"], result["seconds"]) == (4, 6, 0, 10)


def test_force_after_the_deadline(draining, clock):
    one = draining(READY, left(10), left(4), left(4), left(4), DRAINED, timeout_s=0.3)
    one.look()
    one.drain(None, force=True)
    assert asked(one) == ["status", ("drain", "ansible", None), *["status"] * 3, ("hurry", "ansible")]
    result = one.result()
    assert (result["state"], result["connections_after"], result["closed"], result["forced"]) == ("drained", 0, 6, 4)


def test_even_force_has_an_end(draining, clock):
    one = draining(READY, left(10), left(3), timeout_s=1)
    one.look()
    one.drain(None, force=True)
    assert one.result()["seconds"] == 16
    assert (one.result()["connections_after"], one.result()["forced"], one.result()["closed"]) == (3, 0, 7)
    assert one.message.startswith("has closed 3 connections by force, 3 of which are still open")


def test_no_wait_for_closing_handshakes_after_the_deadline(draining):
    one = draining(READY, left(0), timeout_s=1)
    one.look()
    one.drain(None, force=False)
    assert (one.result()["state"], one.result()["connections_after"]) == ("draining", 0)


def test_a_busy_worker_has_until_the_deadline(draining, clock):
    one = draining(READY, UnansweredError("is busy"), left(10), UnansweredError("is busy"), DRAINED)
    one.look()
    one.drain(None, force=False)
    assert one.result()["state"] == "drained"
    assert asked(one).count(("drain", "ansible", None)) == 2

    one = draining(READY, left(10), UnansweredError("is busy"), timeout_s=5)
    one.look()
    with pytest.raises(WorkerError, match=r"^Worker 80 is busy\.$"):
        one.drain(None, force=False)
    assert one.result()["connections_after"] == 10


def test_a_drain_waits_for_systemd_to_notice_the_end(draining, clock, host):
    host.set_ended_process(ActiveState="activating", SubState="auto-restart")
    clock.meanwhile = [lambda: None, lambda: host.set_process(None)]
    one = draining(NotServedError("has no process"))
    one.look()
    one.drain(None, force=False)
    assert clock.sleeps == [0.1, 0.15]
    assert (one.changed, one.result()["state"]) == (False, "down")


def test_a_drain_does_not_wait_long_for_systemd(draining, clock):
    one = draining(NotServedError("has no process"))
    with pytest.raises(WorkerError, match=r"^Worker 80 runs, but has no process\. Early releases and units"):
        one.look()
    assert sum(clock.sleeps) == pytest.approx(5, abs=1.01)
    assert one.result()["state"] == "unknown"


def test_a_replaced_process_is_an_error(draining):
    one = draining(READY, left(10), dataclasses.replace(READY, pid=43))
    one.look()
    with pytest.raises(
        WorkerError, match=r"was replaced while it drained: process 42 has ended, and process 43 lets clients in\.$"
    ):
        one.drain(None, force=False)


def test_a_worker_that_ends_before_it_is_undrained(draining, host):
    one = draining(DRAINED, NotServedError("has ended"))
    one.look()
    host.set_process(None)
    one.undrain()
    assert (one.message, one.result()["state"]) == ("ended before it could be undrained", "down")


# Slices: a first slice gets ten answers, and then its result.


@pytest.fixture
def in_slices(draining, clock):
    """A drain, and the times at which its slices ended, with a second between two slices."""

    def run(*answers, force=False, meanwhile=lambda: None, **options):
        start, ends = clock.now, []
        one = draining(*answers, so_far={}, **options)
        one.look()
        one.drain(None, force)
        while one.so_far:
            ends.append(clock.now - start)
            clock.now += 1
            meanwhile()
            so_far = json.loads(json.dumps(one.so_far))
            one = draining(*one._worker.control.answers, so_far=so_far, **options)
            one.go_on(force)
        return one, ends

    return run


def test_slices_have_the_result_of_a_drain_in_one(in_slices, draining):
    answers = [READY, left(10), *[left(8)] * 12, *[left(3)] * 12, DRAINED]
    one, ends = in_slices(*answers)
    result = one.result()
    assert ends == [pytest.approx(5, abs=1), pytest.approx(11, abs=2)]
    whole = draining(*answers)
    whole.look()
    whole.drain(None, force=False)
    assert one.changed
    assert one.difference() == whole.difference()
    expected = whole.result()
    for key in ("instance", "state", "drained_by", "connections_before", "connections_after", "closed", "forced"):
        assert result[key] == expected[key]
    told, wanted = result["timeline"], expected["timeline"]
    assert [entry | {"seconds": 0} for entry in told] == [entry | {"seconds": 0} for entry in wanted]
    assert [entry["seconds"] for entry in told] == sorted(entry["seconds"] for entry in told)
    assert told[-1]["seconds"] == result["seconds"] > ends[-1] + 1
    assert one.message == f"is drained of 10 connections after {result['seconds']:.1f} s"


def test_a_drain_that_ends_in_the_first_slice_has_no_other(in_slices):
    for answers, state in (([READY, left(10), DRAINED], "drained"), ([DRAINED], "drained")):
        one, ends = in_slices(*answers)
        assert (ends, one.result()["state"]) == ([], state)
    assert not one.changed


def test_no_slice_ends_between_the_last_client_and_its_closing_handshake(in_slices):
    one, ends = in_slices(READY, *[left(4)] * 9, *[left(0)] * 3, DRAINED)
    assert (ends, one.result()["state"]) == ([], "drained")


@pytest.mark.parametrize("timeout_s", [4, 5, 5.5, 13])
def test_the_deadline_is_that_of_the_whole(in_slices, clock, timeout_s):
    start = clock.now
    with pytest.raises(WorkerError, match=rf"^Worker 80 has 4 of 10 connections left after {timeout_s:g} s\."):
        in_slices(READY, left(10), left(4), timeout_s=timeout_s)
    assert timeout_s - 0.001 <= clock.now - start <= timeout_s + 1

    one, _ends = in_slices(READY, left(10), left(4), timeout_s=timeout_s, force=True)
    assert one.result()["seconds"] == pytest.approx(timeout_s + 15, abs=1)
    assert (one.result()["connections_before"], one.result()["closed"]) == (10, 6)


def test_clients_that_left_between_the_last_slice_and_the_deadline_count(in_slices, clock):
    def late():
        clock.now += 10

    one, ends = in_slices(READY, *[left(4)] * 10, DRAINED, timeout_s=10, meanwhile=late)
    assert (len(ends), one.result()["state"], one.result()["forced"]) == (1, "drained", 0)


def test_a_worker_that_is_busy_at_the_end_of_a_slice_has_until_the_deadline(in_slices):
    busy = UnansweredError("is busy")
    one, ends = in_slices(READY, *[left(4)] * 9, *[busy] * 12, left(2), DRAINED)
    assert one.result()["state"] == "drained"
    assert ends[0] > 15


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            dataclasses.replace(READY, pid=43),
            "was replaced while it drained: process 42 has ended, and process 43 lets clients in",
        ),
        (READY, "is no longer drained by ansible: another user undid it meanwhile"),
    ],
)
def test_a_drain_that_is_undone_between_slices_is_not_restarted(in_slices, found, told):
    with pytest.raises(WorkerError, match=told):
        in_slices(READY, *[left(4)] * 10, found)


def test_a_worker_that_ends_between_slices_has_no_clients_left(in_slices, host):
    def end():
        host.set_process(None)

    one, ends = in_slices(READY, *[left(4)] * 10, NotServedError("has ended"), meanwhile=end)
    result = one.result()
    assert (len(ends), result["state"], result["connections_before"], result["closed"]) == (1, "down", 10, 10)
    assert one.message.startswith("ended after 6.")


# On a real worker.


@pytest.fixture
def real(host, clock):
    worker = host.start()
    host.guest(worker)
    host.guest(worker)
    one = Draining(Worker(command, "80"), "ansible", 60, clock)
    one.look()
    return worker, one


def test_a_worker_that_dies_meanwhile_has_no_clients_left(real, clock):
    worker, one = real

    def die():
        worker.signal(signal.SIGKILL)
        worker.wait()

    clock.meanwhile = [die]
    one.drain(None, force=False)
    result = one.result()
    assert one.changed
    assert (result["state"], result["drained_by"]) == ("down", [])
    assert (result["connections_before"], result["connections_after"], result["closed"]) == (2, 0, 2)
    assert result["timeline"][-1] == {"seconds": 0.1, "connections": 0, "state": "down"}
    assert one.message.startswith("ended after 0.1 s, before it was drained")


def test_a_drain_that_another_user_undoes_is_an_error(real, clock):
    _worker, one = real
    clock.meanwhile = [lambda: one._worker.control.undrain("ansible")]
    with pytest.raises(
        WorkerError, match=r"^Worker 80 is no longer drained by ansible: another user undid it meanwhile\.$"
    ):
        one.drain(None, force=False)
    assert one.result()["connections_after"] == 2


def test_an_operators_drain_outlives_force(real):
    _worker, one = real
    control = one._worker.control
    control.drain("olga", 0.0)
    hurried = Draining(one._worker, "ansible", 0)
    hurried.look()
    hurried.drain(None, force=True)
    assert sorted(control.status().drained_by) == ["ansible", "olga"]
    assert hurried.result()["connections_after"] == 0
