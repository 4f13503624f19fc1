# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The host of a worker's Redis and Postgres, and stores that the inventory has on another host."""

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils import _stores
from ansible_collections.selfhost.websocket.plugins.module_utils._stores import Elsewhere, Host, Store

ONE, TWO = "1" * 32, "2" * 32
HOSTS = {"one": Host(["10.0.0.1", "192.0.2.1"], ONE), "two": Host(["10.0.0.2", "fd00::2"], TWO), "far": Host([], "")}

ENV = """
# Written by the role ws_server.
# Redis runs on the machine {one}
# Postgres runs on the machine {two}
WS_BROKER="redis"
WS_REDIS_URL="redis://10.0.0.1:6379/0"
WS_REDIS_PASSWORD="redis://hush@10.9.9.9/"
WS_POSTGRES_DSN="postgresql://app:hu%2Fsh@[fd00::2]:5432/ws"
"""


def test_settings_with_addresses():
    assert _stores.parse(ENV.format(one=ONE, two=TWO)) == {
        "redis": Store("10.0.0.1", ONE),
        "postgres": Store("fd00::2", TWO),
    }
    assert "hu" not in repr(_stores.parse(ENV.format(one=ONE, two=TWO)))


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ('WS_REDIS_URL="unix:///run/redis-ws/redis-server.sock"', "redis"),
        ("WS_REDIS_URL=redis://localhost:6379/0", "redis"),
        ('WS_REDIS_URL="redis://127.0.0.1:6380/0"', "redis"),
        ('WS_REDIS_URL="redis://[::1]:6380/0"', "redis"),
        ('WS_POSTGRES_DSN="postgresql://app@/ws?host=/run/postgresql&port=5432"', "postgres"),
    ],
)
def test_a_store_on_the_host_itself(setting, name):
    """The settings of an earlier release name no machine."""
    assert _stores.parse(f'WS_BROKER="redis"\n{setting}\n') == {name: Store("", "")}


def test_settings_without_stores():
    assert _stores.parse('WS_BROKER="memory"\n') == {}


@pytest.mark.parametrize(
    ("store", "wanted", "host"),
    [
        (Store("", ONE), "two", "far"),  # the worker's own host
        (Store("10.0.0.1", ""), "one", "one"),
        (Store("10.0.0.1", ""), "two", "one"),
        (Store("192.0.2.1", TWO), "two", "one"),  # copies of a machine have its ID, too
        (Store("10.0.0.9", ONE), "one", "one"),  # the host has another address now
        (Store("10.0.0.9", ONE), "two", "one"),
        (Store("10.0.0.9", ""), "one", None),
        (Store("10.0.0.9", "3" * 32), "one", None),
    ],
)
def test_the_host_of_a_store(store, wanted, host):
    assert _stores.host_of(store, "far", HOSTS, wanted) == host


def test_the_machine_id_of_two_hosts_recognizes_neither():
    """Copies of a machine share the ID: the wanted host would count as the one that has the data."""
    hosts = {"one": Host(["10.0.0.1"], ONE), "copy": Host(["10.0.0.2"], ONE)}
    assert _stores.host_of(Store("10.0.0.9", ONE), "far", hosts, "copy") is None


def test_two_hosts_with_the_same_address():
    """Two bridges may have the same address. The host that the inventory names has the store."""
    hosts = {"one": Host(["172.17.0.1", "10.0.0.1"], ONE), "two": Host(["172.17.0.1"], TWO)}
    for wanted in hosts:
        assert _stores.host_of(Store("172.17.0.1", ""), "far", hosts, wanted) == wanted


def worker(redis: str | None, postgres: str | None = "") -> dict[str, object]:
    found = {"redis": redis, "postgres": postgres}
    stores = {name: None if address is None else {"address": address, "machine": ""} for name, address in found.items()}
    return {"instance": "80", **stores}


def elsewhere(workers, redis, postgres="one"):
    return _stores.elsewhere(workers, HOSTS, {"redis": redis, "postgres": postgres})


def test_a_first_deployment():
    assert elsewhere({"one": [], "two": []}, "two") == []


def test_a_fleet_that_grows_around_its_stores():
    assert elsewhere({"one": [worker("")], "two": []}, "one") == []
    assert elsewhere({"one": [worker("")], "two": [worker("10.0.0.1", "10.0.0.1")]}, "one") == []


def test_workers_that_use_no_store():
    assert elsewhere({"one": [worker(None, None)]}, "two", "two") == []


def test_a_moved_redis_is_told_once():
    workers = {"one": [worker(""), worker("")], "two": [worker("10.0.0.1", "192.0.2.1")]}
    assert elsewhere(workers, "two") == [Elsewhere("redis", "one", "", ("one", "two"))]
    assert elsewhere(workers, "one", "two") == [Elsewhere("postgres", "one", "", ("one", "two"))]


def test_a_redis_whose_host_is_not_in_the_inventory():
    found = elsewhere({"one": [worker("10.0.0.9")], "two": [worker("10.0.0.9", "10.0.0.1")]}, "two")
    assert found == [Elsewhere("redis", None, "10.0.0.9", ("one", "two"), ("far",))]  # far has no known address
    known = {name: HOSTS[name] for name in ("one", "two")}
    found = _stores.elsewhere({"one": [worker("10.0.0.9")]}, known, {"redis": "two", "postgres": "one"})
    assert found == [Elsewhere("redis", None, "10.0.0.9", ("one",))]


def test_a_host_without_facts_at_the_address_that_ansible_uses():
    hosts = HOSTS | {"old": Host([], "", "10.0.0.9"), "named": Host([], "", "old.example.org")}
    assert _stores.host_of(Store("10.0.0.9", ""), "one", hosts, "two") == "old"
    assert _stores.host_of(Store("10.0.0.8", ""), "one", hosts, "two") is None


def test_half_of_the_workers_have_moved():
    """An interrupted rollout leaves workers with old and new settings."""
    found = elsewhere({"one": [worker("10.0.0.2"), worker("")]}, "two")
    assert found == [Elsewhere("redis", "one", "", ("one",))]


def generation(address: str, machine: str = "") -> dict[str, object]:
    return {"redis": {"address": address, "machine": machine}, "postgres": None}


def test_what_a_rollback_would_change():
    assert _stores.changed(generation("10.0.0.1"), generation("10.0.0.1")) == []
    assert _stores.changed(generation("10.0.0.1", ONE), generation("10.0.0.1")) == []
    assert _stores.changed(generation("10.0.0.9", ONE), generation("10.0.0.1", ONE)) == []
    assert _stores.changed(generation("10.0.0.2"), generation("10.0.0.1")) == ["redis"]
    assert _stores.changed(generation("10.0.0.1", TWO), generation("10.0.0.1", ONE)) == ["redis"]
    assert _stores.changed({}, generation("10.0.0.1")) == []


EMPTY = {"tables": 0, "mark": ""}
FENCED = {"tables": 4, "mark": "move 1"}


@pytest.mark.parametrize(
    ("new", "copied"),
    [
        (FENCED, True),
        ({"tables": 5, "mark": "move 1"}, True),  # the new release has migrated the copy
        (EMPTY, False),
        ({"tables": 0, "mark": "move 1"}, False),
        ({"tables": 4, "mark": "move 0"}, False),  # a copy from before the service used the old database again
        ({"tables": 4, "mark": ""}, False),
    ],
)
def test_a_copy_of_the_old_database(new, copied):
    assert _stores.is_copy(new, FENCED) == copied


def test_a_database_without_a_mark_has_no_copy():
    assert not _stores.is_copy({"tables": 4, "mark": ""}, {"tables": 4, "mark": ""})
