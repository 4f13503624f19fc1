# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The module metrics_gate in a play."""

from __future__ import annotations

import pytest
from hosts import run
from prometheus import HOLDS, HOLDS_NOT, error

from ansible_collections.selfhost.websocket.plugins.modules import metrics_gate


def gate(prometheus, check=False, **arguments):
    arguments = {"hold_s": 0.2, "timeout_s": 60} | arguments
    return run(metrics_gate, check, prometheus_url=prometheus.url, expressions=list(prometheus.answers), **arguments)


def test_the_gate_as_ansible_runs_it(module, prometheus):
    prometheus.answers = {"drops < 1": [HOLDS_NOT, HOLDS]}
    result = module("metrics_gate", prometheus_url=prometheus.url, expressions=["drops < 1"], hold_s=0.2, timeout_s=60)
    assert (result["changed"], result["holds"]) == (False, True), result
    assert result["looks"] == len(prometheus.asked) >= 3
    assert result["seconds"] >= 0.2


def test_a_timeout_names_the_expression(prometheus):
    prometheus.answers = {"a": [HOLDS], "drops < 1": [HOLDS_NOT]}
    result = gate(prometheus, timeout_s=0.5)
    assert result["failed"]
    assert result["msg"] == "In 0.5 s not all expressions held for 0.2 s in a row: drops < 1 did not hold."
    assert result["holds"] is False
    assert result["looks"] == prometheus.asked.count("drops < 1")
    assert result["seconds"] >= 0.5


def test_a_refused_expression_is_reported_at_once(prometheus):
    prometheus.answers = {"drops <": [error(400, "parse error: unexpected end of input")]}
    result = gate(prometheus)
    assert result["failed"]
    assert result["msg"] == ("Prometheus refuses the expression drops <: parse error: unexpected end of input.")
    assert (result["holds"], result["looks"]) == (False, 1)


@pytest.mark.parametrize(("answer", "holds"), [(HOLDS, True), (HOLDS_NOT, False), (error(503, "starting"), False)])
def test_check_mode_looks_once(prometheus, answer, holds):
    prometheus.answers = {"a": [answer]}
    result = gate(prometheus, check=True, hold_s=30)
    assert not result["failed"]
    assert (result["holds"], result["looks"]) == (holds, 1)


def test_a_gate_that_could_never_open_is_refused(prometheus):
    prometheus.answers = {"a": [HOLDS]}
    result = gate(prometheus, hold_s=5, timeout_s=5)
    assert result["failed"]
    assert result["msg"] == "timeout_s is 5: it must be more than hold_s, 5."
    assert prometheus.asked == []
