# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The stores that a playbook would leave behind. module_utils/test_stores.py tests which host has a store."""

from __future__ import annotations

from ansible_collections.selfhost.websocket.plugins.filter.stores_elsewhere import FilterModule, stores_elsewhere

HERE = {"address": "", "machine": ""}
THERE = {"address": "10.0.0.1", "machine": ""}
USED = {"one": [{"instance": "80", "redis": HERE, "postgres": HERE}], "two": [{"instance": "80", "redis": THERE}]}
HOSTS = {
    "one": {"ansible_facts": {"all_ipv4_addresses": ["10.0.0.1"], "all_ipv6_addresses": [], "machine_id": "1" * 32}},
    "two": {"ansible_facts": {"all_ipv4_addresses": ["10.0.0.2"]}, "ws_server_private_address": "fd00::2"},
    "far": {},
}


def test_stores_that_stay():
    assert stores_elsewhere(USED, HOSTS, {"redis": "one", "postgres": "one"}) == []


def test_stores_that_the_inventory_has_on_another_host():
    assert stores_elsewhere(USED, HOSTS, {"redis": "two", "postgres": "two"}) == [
        {"name": "redis", "host": "one", "address": "", "users": ["one", "two"], "candidates": []},
        {"name": "postgres", "host": "one", "address": "", "users": ["one"], "candidates": []},
    ]


def test_a_host_that_is_recognized():
    """The filter recognizes a host by its address in the inventory, and by its machine ID."""
    wanted = {"redis": "two", "postgres": "one"}
    used = {"far": [{"redis": {"address": "fd00::2", "machine": ""}}, {"postgres": THERE | {"machine": "1" * 32}}]}
    assert stores_elsewhere(used, HOSTS, wanted) == []
    used = {
        "far": [
            {"redis": {"address": "10.9.9.9", "machine": "1" * 32}},
            {"postgres": {"address": "10.9.9.9", "machine": ""}},
        ]
    }
    assert [one["host"] for one in stores_elsewhere(used, HOSTS, wanted)] == ["one", None]


def test_a_host_whose_facts_are_not_known():
    """--limit leaves it out, or it is in no group of the fleet."""
    wanted = {"redis": "two", "postgres": "two"}
    (found,) = stores_elsewhere({"two": [{"redis": THERE}]}, HOSTS | {"one": {}}, wanted)
    assert (found["host"], found["candidates"]) == (None, ["one", "far"])
    (found,) = stores_elsewhere({"two": [{"redis": THERE}]}, HOSTS | {"one": {"ansible_host": "10.0.0.1"}}, wanted)
    assert (found["host"], found["candidates"]) == ("one", [])


def test_ansible_finds_it():
    assert FilterModule().filters() == {"stores_elsewhere": stores_elsewhere}
