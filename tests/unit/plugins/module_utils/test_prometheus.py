# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Expressions that hold, do not hold, are unstable, or cannot be queried."""

from __future__ import annotations

import socket
import threading

import pytest
from prometheus import HOLDS, HOLDS_NOT, error, result
from support.ports import free_port

from ansible_collections.selfhost.websocket.plugins.module_utils._prometheus import (
    ExpressionError,
    Gate,
    Prometheus,
    PrometheusError,
)
from ansible_collections.selfhost.websocket.plugins.module_utils._waiting import Wait

# One query.


@pytest.mark.parametrize(
    ("answer", "holds"),
    [
        (HOLDS, True),
        (HOLDS_NOT, False),
        (result("scalar", [1795529805.1, "0.5"]), True),
        (result("scalar", [1795529805.1, "0"]), False),
        (result("scalar", [1795529805.1, "NaN"]), False),
    ],
    ids=["vector", "empty vector", "scalar", "scalar 0", "scalar NaN"],
)
def test_whether_an_expression_holds(prometheus, answer, holds):
    prometheus.answers["a > 1 or b"] = [answer]
    assert Prometheus(prometheus.url + "/").holds("a > 1 or b") is holds
    assert prometheus.asked == ["a > 1 or b"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (error(400, "1:3: parse error: unexpected end of input"), "refuses the expression a >: 1:3: parse error"),
        ((400, b"<html>"), "refuses the expression a >: Bad Request"),
        (result("matrix", [{"metric": {}, "values": [[1, "1"]]}]), "a > is a matrix"),
        (result("string", [1, "1"]), "a > is a string"),
    ],
    ids=["refused", "refused by something else", "matrix", "string"],
)
def test_an_invalid_expression(prometheus, answer, says):
    prometheus.answers["a >"] = [answer]
    with pytest.raises(ExpressionError) as refused:
        Prometheus(prometheus.url).holds("a >")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (error(503, "query timed out"), "answers 503: query timed out"),
        (error(422, "many-to-many matching not allowed"), "answers 422: many-to-many matching not allowed"),
        ((502, b"<html>"), "answers 502: Bad Gateway"),
        ((200, b"<html>"), "does not answer as Prometheus does"),
        ((200, b"\xff"), "does not answer as Prometheus does"),
        ((200, b"[]"), "does not answer as Prometheus does"),
        ((200, b'{"data": {}}'), "does not answer as Prometheus does"),
        (result("scalar", [1]), "does not answer as Prometheus does"),
        (result("vector", None), "does not answer as Prometheus does"),
    ],
)
def test_a_temporary_failure(prometheus, answer, says):
    prometheus.answers["a"] = [answer]
    with pytest.raises(PrometheusError) as failed:
        Prometheus(prometheus.url).holds("a")
    assert not isinstance(failed.value, ExpressionError)
    assert str(failed.value).startswith(prometheus.url)
    assert says in str(failed.value)


def test_no_prometheus():
    with pytest.raises(PrometheusError, match=r"does not answer: .*refused"):
        Prometheus(f"http://127.0.0.1:{free_port()}").holds("a")


def test_a_server_that_does_not_speak_http():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            connection, _address = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        with pytest.raises(PrometheusError, match="does not answer: 220 mail"):
            Prometheus(f"http://127.0.0.1:{listener.getsockname()[1]}").holds("a")
        greeting.join()


# The gate. Time passes only in its sleeps, of 0.1 s, 0.15 s and so on.


def gate(prometheus, clock, expressions, hold_s, timeout_s):
    return Gate(Prometheus(prometheus.url), expressions, hold_s, Wait(timeout_s, clock))


def test_the_gate_opens_when_all_expressions_have_held_long_enough(prometheus, clock):
    prometheus.answers = {"a": [HOLDS], "b": [HOLDS]}
    opened = gate(prometheus, clock, ["a", "b"], 0.3, 60)
    assert opened.open()
    assert (clock.sleeps, opened.looks) == ([0.1, 0.15, 0.225], 4)
    assert prometheus.asked == ["a", "b"] * 4


def test_one_query_is_enough_without_a_hold_time(prometheus, clock):
    prometheus.answers = {"a": [HOLDS]}
    assert gate(prometheus, clock, ["a"], 0, 60).open()
    assert (clock.sleeps, prometheus.asked) == ([], ["a"])


@pytest.mark.parametrize("break_", [HOLDS_NOT, error(503, "starting"), (200, b"")], ids=["not", "away", "garbage"])
def test_a_break_restarts_the_hold_time(prometheus, clock, break_):
    prometheus.answers = {"a": [HOLDS, HOLDS, HOLDS, break_, HOLDS]}
    opened = gate(prometheus, clock, ["a"], 0.5, 60)
    assert opened.open()
    # The break came after 0.475 s, and the next query 0.338 s later.
    assert clock.sleeps == [0.1, 0.15, 0.225, 0.338, 0.506]
    assert opened.looks == 6


def test_an_unstable_expression_never_opens_the_gate(prometheus, clock):
    prometheus.answers = {"a": [HOLDS], "b": [HOLDS, HOLDS_NOT] * 50}
    opened = gate(prometheus, clock, ["a", "b"], 1.5, 10)
    assert not opened.open()
    assert sum(clock.sleeps) == pytest.approx(10, abs=0.01)
    assert opened.complaint == "b did not hold"


def test_the_first_failing_expression_is_named_and_the_rest_is_not_queried(prometheus, clock):
    prometheus.answers = {"a": [HOLDS], "b": [HOLDS_NOT], "c": [HOLDS_NOT]}
    opened = gate(prometheus, clock, ["a", "b", "c"], 1, 2)
    assert not opened.open()
    assert opened.complaint == "b did not hold"
    assert "c" not in prometheus.asked


def test_a_refused_expression_ends_the_wait_at_once(prometheus, clock):
    prometheus.answers = {"a": [HOLDS], "b >": [error(400, "parse error")]}
    opened = gate(prometheus, clock, ["a", "b >"], 1, 60)
    with pytest.raises(ExpressionError, match="refuses the expression b >: parse error"):
        opened.open()
    assert (clock.sleeps, opened.looks) == ([], 1)
