# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""How long the gate waits, and for which workers."""

from __future__ import annotations

import threading

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._readyz import Answer
from ansible_collections.selfhost.websocket.plugins.module_utils._rollout_gate import Gate, linked

READY, NOT_READY = Answer(200, "ready"), Answer(503, "not ready: draining")


def facts(instance, ready=True, drained_by=(), generation="1.0-00000001"):
    return {
        "instance": instance,
        "generation": generation,
        "generation_before": None,
        "linked_at": 100.0,
        "last_started_at": 200.0,
        "serving": True,
        "ready": ready,
        "drained_by": list(drained_by),
    }


def looking(clock, *looks):
    """A gate whose host has these states, one after the other. The last one repeats."""
    left = list(looks)

    def survey():
        found = left.pop(0) if len(left) > 1 else left[0]
        return [facts(*each) if isinstance(each, tuple) else facts(each) for each in found]

    return Gate(survey, lambda _endpoint: READY, clock)


def test_the_gate_does_not_wait_when_all_others_are_ready(clock):
    assert len(looking(clock, ["80", "81"]).look("80", "rollout")) == 2
    assert looking(clock, [("80", False), "81"]).look("80", "rollout")[0]["ready"] is False
    assert clock.sleeps == []


def test_the_gate_waits_for_a_crashed_worker(clock):
    down = ["80", ("81", False)]
    found = looking(clock, down, down, ["80", "81"]).look("80", "rollout")
    assert all(each["ready"] for each in found)
    assert clock.sleeps == [2.0, 2.0]


def test_the_gate_gives_up_after_twenty_seconds(clock):
    found = looking(clock, ["80", ("81", False)]).look("80", "rollout")
    assert [each["ready"] for each in found] == [True, False]
    assert sum(clock.sleeps) == 20


def test_the_gate_does_not_wait_for_an_operator(clock):
    held = ["80", ("81", False, ["alice"])]
    assert looking(clock, held).look("80", "rollout")
    assert clock.sleeps == []
    own = ["80", ("81", False, ["rollout"])]
    assert looking(clock, own, ["80", "81"]).look("80", "rollout")
    assert clock.sleeps == [2.0]


def test_check_mode_looks_once(clock):
    assert looking(clock, ["80", ("81", False)]).look("80", "rollout", once=True)
    assert clock.sleeps == []


def asking(clock, answers):
    """A gate whose endpoints give these answers, one after the other. The last one repeats."""
    asked = dict.fromkeys(answers, 0)

    def ask(endpoint):
        asked[endpoint] += 1
        return answers[endpoint][min(asked[endpoint], len(answers[endpoint])) - 1]

    return Gate(list, ask, clock), asked


def test_endpoints_that_are_ready_are_asked_once(clock):
    gate, asked = asking(clock, {"one:8080": [READY], "two:8080": [NOT_READY, READY]})
    assert gate.unready(asked) == {}
    assert asked == {"one:8080": 1, "two:8080": 2}
    assert clock.sleeps == [2.0]


def test_endpoints_that_are_not_ready_are_named_with_their_last_answer(clock):
    lost = Answer(None, "no answer: timed out")
    gate, asked = asking(clock, {"one:8080": [READY], "two:8080": [NOT_READY, lost], "two:8081": [NOT_READY]})
    assert gate.unready(asked) == {"two:8080": lost, "two:8081": NOT_READY}
    assert asked == {"one:8080": 1, "two:8080": 6, "two:8081": 6}
    assert sum(clock.sleeps) == 10


def test_without_endpoints_nothing_is_asked(clock):
    gate, _asked = asking(clock, {})
    assert gate.unready([]) == {}
    assert clock.sleeps == []


@pytest.mark.timeout(30)
def test_all_endpoints_are_asked_at_once(clock):
    """With ten hosts of four workers, no endpoint answers before all have been asked."""
    fleet = [f"host{number // 4}:80{80 + number % 4}" for number in range(40)]
    together = threading.Barrier(len(fleet))

    def ask(_endpoint):
        together.wait(20)
        return READY

    assert Gate(list, ask, clock).unready(fleet) == {}


def test_an_instance_without_a_link_is_not_a_worker():
    assert [each.instance for each in linked([facts("80"), facts("81", generation=None)])] == ["80"]
