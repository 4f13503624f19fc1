# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Tables of rules, applied to the variables of a host."""

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._checks import RuleError, Settings, find_faults, whole
from ansible_collections.selfhost.websocket.plugins.module_utils._rules import CHECKS


def faults(*rules, **variables):
    settings = Settings(variables.__getitem__, "one", ipv4=["10.0.0.5", "192.0.2.7"], ipv6=["2001:db8::1"])
    return find_faults(rules, settings, CHECKS)


WHOLE = {"variable": "keep", "whole": [1, 20], "remedy": "set it to a number from 1 to 20"}


@pytest.mark.parametrize("value", [1, 20, 8, "8", "1", 8.0, "20"])
def test_a_number_may_be_given_as_text(value):
    assert faults(WHOLE, keep=value) == []


@pytest.mark.parametrize("value", [0, 21, -1, "0", "21", "eight", "", None, [], "1e9"])
def test_a_number_out_of_range(value):
    assert faults(WHOLE, keep=value) == [f"keep is {value}: set it to a number from 1 to 20."]


@pytest.mark.parametrize(
    ("value", "number"), [(8, 8), ("8", 8), (" 8 ", 8), ("8.7", 8), (True, 1), ("eight", 0), (None, 0)]
)
def test_text_is_read_as_jinja_reads_it(value, number):
    assert whole(value) == number


def test_a_number_without_an_upper_bound():
    rule = WHOLE | {"whole": [1, None]}
    assert faults(rule, keep=10**9) == []
    assert faults(rule, keep=0)


def test_a_form():
    rule = {"variable": "size", "form": "^[1-9][0-9]*M$", "remedy": "set it to a size like 480M"}
    assert faults(rule, size="64M") == []
    assert faults(rule, size="big") == ["size is 'big': set it to a size like 480M."]
    assert faults(rule, size=64) == ["size is '64': set it to a size like 480M."]


def test_several_variables_with_one_rule():
    rule = {"variables": ["low", "high"], "form": "^[0-9]+$", "remedy": "use digits"}
    assert faults(rule, low="a", high="b") == ["low is 'a': use digits.", "high is 'b': use digits."]


def test_each_element_of_a_list():
    rule = {"variable": "clients", "each": "^[0-9.]+$", "remedy": "list IP addresses"}
    assert faults(rule, clients=[]) == []
    assert faults(rule, clients=["10.0.0.1", "a", "b"]) == ["clients has 'a', 'b': list IP addresses."]


def test_an_address_of_the_host():
    rule = {"variable": "at", "address": {"also": ["127.0.0.1"]}, "remedy": "set it to 127.0.0.1 or one of"}
    for good in ("127.0.0.1", "10.0.0.5", "2001:db8::1"):
        assert faults(rule, at=good) == []
    assert faults(rule, at="203.0.113.9") == [
        "at is '203.0.113.9', which is not an address of one: set it to 127.0.0.1 or one of 10.0.0.5, 192.0.2.7, 2001:db8::1."
    ]
    rule = {"variable": "at", "address": {}, "remedy": "set it to one of"}
    assert faults(rule, at="2001:db8::1") == []
    assert faults(rule, at="127.0.0.1")


def test_a_rule_with_its_own_fault_text_does_not_show_the_value():
    rule = {"variable": "password", "form": "^.{8,}$", "fault": "is too short", "remedy": "use eight characters"}
    assert faults(rule, password="secret") == ["password is too short: use eight characters."]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [(True, True), (False, False), ("yes", True), ("False", False), ("", False), (["up"], True), ([], False)],
)
def test_a_rule_may_depend_on_another_variable(condition, holds):
    assert bool(faults(WHOLE | {"when": "on"}, keep=0, on=condition)) == holds
    assert bool(faults(WHOLE | {"unless": "on"}, keep=0, on=condition)) != holds


def test_all_faults_are_reported_in_the_order_of_the_rules():
    rules = [WHOLE, {"check": "lock_break"}, WHOLE | {"variable": "hold"}]
    told = faults(*rules, keep=0, ws_lock_break="the door", hold=21)
    assert [fault.split()[0] for fault in told] == ["keep", "ws_lock_break", "hold"]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (WHOLE | {"unles": "on"}, "unknown keys unles"),
        ({"check": "nothing"}, "There is no check 'nothing'"),
        ({"variable": "keep", "whole": [1, 2]}, "a remedy"),
        ({"variable": "keep", "remedy": "change it"}, "needs one of whole, form, each, address"),
        (WHOLE | {"form": "^a"}, "needs one of"),
        (WHOLE | {"variable": "absent"}, "The variable absent is not defined"),
    ],
)
def test_a_wrong_table_is_a_rule_error(rule, says):
    with pytest.raises(RuleError, match=says):
        faults(rule, keep=1)
