# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The checks that compare variables, of the playbooks and of a certificate.

roles/test_preflights.py tests the tables of the roles.
"""

from __future__ import annotations

import re

import pytest
from program import ROOT

from ansible_collections.selfhost.websocket.plugins.action.check_variables import documented
from ansible_collections.selfhost.websocket.plugins.module_utils import _rules
from ansible_collections.selfhost.websocket.plugins.module_utils._checks import Settings

FLEET = {
    name: name.removesuffix("_group")
    for name in ("ws_edge_group", "ws_workers_group", "ws_redis_group", "ws_postgres_group")
}


def told(check, **variables):
    return list(_rules.CHECKS[check](Settings(variables.__getitem__, "one")))


def inventory(**hosts):
    groups = {group: ["one"] for group in (*FLEET.values(), "ws_observability")} | hosts
    return {"groups": groups, "_fleet_groups": FLEET, "ws_observability_group": "ws_observability", **FLEET}


def assert_told(faults, *words):
    assert len(faults) == 1, faults
    assert not [word for word in words if word not in faults[0]], faults


# The inventory.


def test_a_group_is_filled():
    assert told("groups", **inventory()) == []
    assert told("groups", **inventory(ws_observability=[])) == []


@pytest.mark.parametrize("group", FLEET.values())
def test_a_group_without_hosts(group):
    assert_told(told("groups", **inventory(**{group: []})), f"no host in {group}:", f"-e {group}_group=…")


def test_an_inventory_without_hosts():
    variables = inventory() | {"groups": {"all": [], "ungrouped": []}}
    assert_told(
        told("groups", **variables),
        "no host in ws_edge, ws_workers, ws_redis, ws_postgres:",
        "-e ws_edge_group=…, -e ws_workers_group=…",
    )


def test_a_fleet_without_monitoring():
    variables = inventory()
    del variables["groups"]["ws_observability"]
    assert told("groups", **variables) == []


@pytest.mark.parametrize("group", ["ws_redis", "ws_postgres", "ws_observability"])
def test_several_hosts_where_there_may_be_one(group):
    assert_told(told("groups", **inventory(**{group: ["one", "two"]})), f"several hosts in {group}:")


def limit(*left_out, **addresses):
    stores = {"ws_server_redis_host": "cache", "ws_server_postgres_host": "data"}
    return told("limit", _left_out=list(left_out), _addresses=addresses, **stores)


def test_a_limit_that_leaves_out_hosts_that_the_run_knows():
    assert limit() == []
    assert limit("one", "two", one="10.0.0.1", two="fd00::2", cache="") == []


def test_a_limit_that_leaves_out_a_host_without_an_address():
    assert_told(
        limit("one", "two", "three", one="", two="10.0.0.2", three=""),
        "--limit leaves out one, three, whose address",
        "set ws_server_private_address",
        "--tags nginx",
    )


def test_a_limit_that_leaves_out_the_host_of_a_maintenance():
    variables = {"_left_out": ["one"], "_addresses": {"one": "10.0.0.1"}, "ws_host": "one"}
    stores = {"ws_server_redis_host": "two", "ws_server_postgres_host": "two"}
    assert_told(told("limit", **variables, **stores), "--limit leaves out one, which ws_host names")
    assert told("limit", **variables | {"_left_out": []}, **stores) == []


def test_a_limit_that_leaves_out_redis_or_postgres():
    known = {"cache": "10.0.0.1", "data": "10.0.0.2", "one": "10.0.0.3"}
    assert_told(limit("one", "cache", **known), "--limit leaves out cache, and", "add that host to --limit")
    assert_told(limit("data", "cache", **known), "--limit leaves out data, cache, and")
    assert len(limit("cache", "one", cache="", one="")) == 2


def test_several_edges_and_workers():
    assert told("groups", **inventory(ws_edge=["one", "two"], ws_workers=["one", "two"])) == []


@pytest.mark.parametrize("batches", [1, "1", "25%", [1, "25%", 3], "100%"])
def test_batches(batches):
    assert told("roll_serial", ws_roll_serial=batches) == []
    assert told("roll_serial") == []


@pytest.mark.parametrize("batches", [[], 0, "0%", "101%", [1, "250%"], "two", None])
def test_wrong_batches(batches):
    assert_told(
        told("roll_serial", ws_roll_serial=batches),
        f"ws_roll_serial is {batches}: ",
        "a number or a percentage",
        """-e '{"ws_roll_serial": [1, "25%"]}'""",
    )


def test_the_request_to_break_the_lock():
    for given in (True, False, "true", "yes", "No"):
        assert told("lock_break", ws_lock_break=given) == []
    assert told("lock_break") == []
    assert_told(told("lock_break", ws_lock_break="the door"), "ws_lock_break is the door", "or leave it out")


@pytest.mark.parametrize(
    ("asked", "workers", "words"),
    [
        ({"ws_action": "out"}, ["one", "two"], ["ws_host is not set", "one, two"]),
        (
            {"ws_host": "three", "ws_action": "out"},
            ["one", "two"],
            ["ws_host is 'three', which is not a worker host", "one, two"],
        ),
        ({"ws_host": "two"}, ["one", "two"], ["ws_action is not set", "-e ws_action=reboot"]),
        ({"ws_host": "two", "ws_action": "off"}, ["one", "two"], ["ws_action is 'off'"]),
        ({"ws_host": "one", "ws_action": "out"}, ["one"], ["one is the only worker host", "add a worker host first"]),
        (
            {"ws_host": "one", "ws_action": "reboot"},
            ["one", "two"],
            ["it has Redis and Postgres and the only edge", "-e ws_even_so=true"],
        ),
    ],
)
def test_maintenance_needs_a_host_and_an_action(asked, workers, words):
    assert_told(told("maintenance", **inventory(ws_workers=workers), **asked), *words)


@pytest.mark.parametrize(
    ("asked", "workers"),
    [
        ({"ws_host": "two", "ws_action": "reboot"}, ["one", "two"]),
        ({"ws_host": "one", "ws_action": "out"}, ["one", "two"]),
        ({"ws_host": "one", "ws_action": "in"}, ["one"]),
        ({"ws_host": "one", "ws_action": "reboot", "ws_even_so": "true"}, ["one", "two"]),
    ],
)
def test_maintenance(asked, workers):
    assert told("maintenance", **inventory(ws_workers=workers), **asked) == []


def test_two_faults_of_maintenance_are_reported_at_once():
    assert len(told("maintenance", **inventory())) == 2


def ports(*wanted, workers=4, prometheus=True):
    endpoints = [f"127.0.0.1:{port + index}" for port in (8080, 9080) for index in range(workers)]
    variables = {
        "_ports": [*wanted, *(endpoint.rpartition(":")[2] for endpoint in endpoints)],
        "_workers": endpoints,
        "_prometheus": [9090] if prometheus else [],
        "ws_observability_group": "ws_observability",
    }
    return told("ports", **variables)


def test_ports():
    assert ports("443", "6379", "5432") == []
    assert_told(ports("8081"), "On one two services would use the port 8081: choose another redis_port")
    assert_told(ports("5432", "5432"), "the port 5432")
    assert_told(ports("9090", workers=11), "the port 9090: ", "without workers into ws_observability", "10 or less")
    assert_told(ports("9090", workers=11, prometheus=False), "choose another redis_port")


@pytest.mark.parametrize("parts", [["jaeger"], "loki", ["loki", "jaeger"]])
def test_an_unknown_part(parts):
    assert_told(
        told("observability_parts", _fleet_parts=parts), f"ws_observability_parts is {parts}", "grafana, loki and tempo"
    )


def test_parts():
    for parts in ([], ["loki"], ["tempo", "grafana", "loki"]):
        assert told("observability_parts", _fleet_parts=parts) == []


# Stores.

AT_ONE, AT_TWO = {"address": "10.0.0.1", "machine": ""}, {"address": "10.0.0.2", "machine": ""}
MOVED = {"name": "redis", "host": "one", "address": "", "users": ["one", "two"], "candidates": []}


def stores(*found, moved_from="", used=("80",)):
    variables = {"_fleet_elsewhere": found, "_wanted": {"redis": "two", "postgres": "two"}, "_from": moved_from}
    variables |= {"_used": {"one": list(used)}}
    return told("stores", **variables, ws_redis_group="ws_redis", ws_postgres_group="ws_postgres")


def test_stores_that_stay():
    assert stores() == []


def test_stores_that_no_running_worker_names():
    assert stores(used=()) == []  # the first deployment
    assert_told(stores(used=(), moved_from="one"), "No worker runs", "start the workers")


def test_a_store_that_would_be_left_behind():
    assert_told(
        stores(MOVED),
        "The workers of one, two use the Redis on one, and ws_redis of the inventory names two. ",
        "move_store with -e ws_from=one, or write one into ws_redis again.",
    )
    assert_told(stores(MOVED | {"name": "postgres"}), "the Postgres on one", "ws_postgres")
    assert len(stores(MOVED, MOVED | {"name": "postgres"})) == 2


def test_a_store_on_a_host_that_the_inventory_does_not_have():
    assert_told(
        stores(MOVED | {"host": None, "address": "10.0.0.1"}, moved_from="one"),
        "use the Redis on a host at 10.0.0.1, which the inventory does not have",
        "add that host to the inventory",
    )


def test_a_store_on_a_host_whose_address_the_run_does_not_know():
    assert_told(
        stores(MOVED | {"host": None, "address": "10.0.0.1", "candidates": ["old", "far"]}),
        "use the Redis on a host at 10.0.0.1, which may be old or far (this run knows no address there), and ws_redis",
        "set ws_server_private_address: 10.0.0.1 for that host in the inventory, and run the playbook move_store",
    )


CLUSTER = "/etc/postgresql/17/main"
SERVES = {"state": "serves", "tables": 4, "mark": "", "version": "17", "clusters": [CLUSTER]}
FENCED = SERVES | {"state": "fenced", "mark": "move 2"}
EMPTY = SERVES | {"tables": 0}
NONE = {"state": "absent", "tables": 0, "mark": "", "version": "", "clusters": []}
MASTER = {"state": "master", "forwards": ""}


def movable(redis=None, old=None, new=EMPTY):
    moves = [*(["redis"] if redis else []), *(["postgres"] if old else [])]
    variables = {"_moves": moves, "_redis_old": redis, "_postgres_located": old, "_postgres_new": new}
    names = {"ws_from": "one", "_redis_target": "10.0.0.2:6380", "_new_host": "two"}
    return told("movable", **variables, **names)


@pytest.mark.parametrize(
    "redis",
    [
        MASTER,
        MASTER | {"forwards": "10.0.0.9:6379"},  # an earlier move to another host ended before the data moved
        {"state": "slave", "forwards": "10.0.0.2:6380"},
        {"state": "handed-over", "forwards": "10.0.0.2:6380"},
    ],
)
def test_a_redis_that_can_move(redis):
    assert movable(redis) == []


def test_a_redis_that_cannot_move():
    assert_told(movable({"state": "stopped", "forwards": ""}), "The Redis of one is stopped", "start that Redis")
    assert_told(movable({"state": "absent", "forwards": ""}), "The Redis of one is absent")
    for state in ("slave", "handed-over"):
        assert_told(
            movable({"state": state, "forwards": "10.0.0.9:6379"}),
            "The data of the Redis of one is at 10.0.0.9:6379",
            "the inventory names 10.0.0.2:6380",
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (SERVES, NONE),
        (SERVES, EMPTY),
        (FENCED, EMPTY),  # the run was interrupted before the copy
        (FENCED, SERVES | {"mark": "move 2"}),  # and after the copy
        (SERVES | {"mark": "move 2"}, EMPTY),  # the database was moved here, or an earlier move was given up
    ],
)
def test_a_database_that_can_move(old, new):
    assert movable(old=old, new=new) == []
    assert movable(MASTER, old, new) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (SERVES, SERVES),
        (SERVES | {"mark": "move 1"}, SERVES | {"mark": "move 1"}),  # the old database serves again since the copy
        (FENCED, SERVES | {"mark": "move 1"}),  # fenced again, by a move to a third host
        (FENCED, SERVES),
        (FENCED | {"mark": ""}, SERVES),
    ],
)
def test_an_older_copy_does_not_become_the_database(old, new):
    assert_told(movable(old=old, new=new), "The database ws on two has 4 tables", "no copy of the database on one")


def test_the_way_back_from_a_move_that_is_not_complete():
    """To deploy Postgres on its old host would let the service log in there again."""
    assert_told(
        movable(old=SERVES | {"mark": "move 2"}, new=FENCED),
        "two is the old host of a move of Postgres to one",
        "with -e ws_from=two",
    )


def test_a_database_that_is_not_found():
    assert_told(movable(old=NONE), "one has no database ws that answers", "or set postgres_database for one")
    clusters = [CLUSTER, "/etc/postgresql/15/main"]
    assert_told(movable(old=NONE | {"clusters": clusters}), f"one has the Postgres clusters {' and '.join(clusters)}")


def address(hosts, private=False, named=None, source="", serving=("one", "two"), api=()):
    variables = {"_fleet_hosts": hosts, "_serving": list(serving), "_api_served": list(api), "_is_private": private}
    variables |= {"_fleet_address": "203.0.113.5"} | ({"ws_server_private_address": named} if named else {})
    return told("address", **variables, **({"ws_from": source} if source else {}))


PUBLIC = "one would serve the other hosts at 203.0.113.5, which is not private: give it ws_server_private_address"


def test_the_address_of_a_host_that_others_reach():
    assert_told(address(["one", "two"]), PUBLIC)
    assert address(["one", "two"], private=True) == []
    assert address(["one", "two"], named="203.0.113.5") == []
    assert address(["one", "two"], serving=["two"]) == []
    assert_told(address(["one"], api=["one"]), PUBLIC)


def test_a_fleet_of_one_host_needs_a_private_address_while_stores_move_there_or_away():
    assert address(["one"]) == []
    assert_told(address(["one"], source="two"), PUBLIC)
    assert_told(address(["two"], source="one", serving=["two"]), PUBLIC)  # the old host is in no group
    assert address(["one"], source="one") == []


def test_a_store_that_the_run_moves():
    assert stores(MOVED, moved_from="one") == []
    assert_told(stores(MOVED, moved_from="two"), "the Redis on one")


def earlier(**then):
    generations = {"1.0-a": {"redis": AT_ONE, "postgres": AT_ONE}, "1.0-b": {"redis": AT_TWO, "postgres": AT_ONE}}
    found = {
        "workers": [{"instance": "80", **generations["1.0-b"]}, {"instance": "81", **generations["1.0-b"]}],
        "generations": generations,
    }
    turns = [{"instance": instance, "generation": generation} for instance, generation in then.items()]
    return told("earlier_stores", _stores=found, _turns=turns)


def test_a_rollback_to_another_store():
    assert earlier(**{"80": "1.0-b", "82": "1.0-a"}) == []
    assert_told(earlier(**{"80": "1.0-b", "81": "1.0-a"}), "Worker 81 of one cannot go back to 1.0-a", "another Redis")


def move(ws_from, redis=("two",), postgres=("one",), **variables):
    groups = {"all": ["one", "two"], "ws_redis": list(redis), "ws_postgres": list(postgres)}
    variables |= {"groups": groups, "ws_redis_group": "ws_redis", "ws_postgres_group": "ws_postgres"}
    return told("move", ws_from=ws_from, **{"ansible_check_mode": False} | variables)


def test_a_move():
    assert move("one") == []
    assert move("one", postgres=["two"]) == []
    assert_told(move("three"), "ws_from is 'three', which is no host of the inventory: set -e ws_from=NAME")
    assert_told(move(""), "ws_from is not set")
    assert_told(move("one", redis=["one"]), "nothing to move from there", "ws_redis and ws_postgres")
    assert_told(move("one", ansible_limit="one"), "--limit leaves out hosts whose workers would keep the old addresses")


# A certificate.

PEM = "-----BEGIN CERTIFICATE-----"
KEY = "-----BEGIN PRIVATE KEY-----"


def pair(**changed):
    variables = {
        "nginx_domain": "ws.example.org",
        "nginx_tls_certificate": "/c.pem",
        "nginx_tls_certificate_key": "/k.pem",
        "_nginx_certificate": PEM,
        "_nginx_certificate_key": KEY,
        "_nginx_certificate_info": {
            "public_key": "P",
            "expired": False,
            "not_after": "20260101000000Z",
            "subject_alt_name": ["DNS:ws.example.org"],
        },
        "_nginx_certificate_key_info": {"public_key": "P"},
    }
    info = variables["_nginx_certificate_info"]
    info |= {name: changed.pop(name) for name in list(changed) if name in info}
    return told("nginx_certificate", **variables | changed)


def test_a_matching_pair():
    assert pair() == []
    assert pair(subject_alt_name=["DNS:chat.example.net", "DNS:*.example.org"]) == []
    assert pair(nginx_domain="192.0.2.7", subject_alt_name=["IP:192.0.2.7"]) == []


def test_a_missing_pair():
    assert_told(pair(_nginx_certificate=""), "nginx_tls_certificate is not a readable", "paths of a certificate")
    assert_told(pair(_nginx_certificate_key=""), "nginx_tls_certificate_key is not a readable")


def test_a_pair_that_does_not_match():
    assert_told(
        pair(_nginx_certificate_key_info={"public_key": "Q"}),
        "nginx_tls_certificate_key (/k.pem) is not the key of nginx_tls_certificate (/c.pem): set both to files that were issued together",
    )
    assert_told(pair(expired=True), "nginx_tls_certificate (/c.pem) expired at 20260101000000Z: renew it first")
    assert_told(
        pair(subject_alt_name=["DNS:chat.example.net", "DNS:*.example.net"]),
        "is not for nginx_domain (ws.example.org), but for DNS:chat.example.net, DNS:*.example.net: have one issued",
    )
    assert_told(pair(subject_alt_name=None), "but for nothing")
    assert len(pair(expired=True, subject_alt_name=[], _nginx_certificate_key_info={"public_key": "Q"})) == 3


def authority(**changed):
    variables = {
        "nginx_tls_ca": "/ca.pem",
        "nginx_tls_certificate": "/c.pem",
        "_nginx_ca": PEM,
        "_nginx_ca_info": {"subject": {"commonName": "ours"}, "expired": False, "not_after": "20260101000000Z"},
        "_nginx_certificate": PEM,
        "_nginx_certificate_issuers": [{"commonName": "intermediate"}, {"commonName": "ours"}],
    }
    return told("nginx_authority", **variables | changed)


def test_a_private_authority():
    assert authority() == []
    assert authority(nginx_tls_ca="") == []
    assert_told(authority(_nginx_ca=""), "nginx_tls_ca (/ca.pem) is not a readable PEM file")
    assert_told(
        authority(_nginx_certificate_issuers=[{"commonName": "another"}]),
        "nginx_tls_ca (/ca.pem) has not issued nginx_tls_certificate (/c.pem), nor an intermediate in it: set it to the",
    )
    old = {"subject": {"commonName": "ours"}, "expired": True, "not_after": "20260101000000Z"}
    assert_told(authority(_nginx_ca_info=old), "nginx_tls_ca (/ca.pem) expired at 20260101000000Z")
    # Another rule checks the certificate.
    assert authority(_nginx_certificate="") == []


# Names.


def names(*given):
    return list(_rules.names(Settings({}.__getitem__, names=given, documented=documented)))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ws_server_instance", "ws_server_instances"),
        ("ws_server_alowed_origins", "ws_server_allowed_origins"),
        ("ws_server_max_connections_per_users", "ws_server_max_connections_per_user"),
        ("ws_server_maximum_message_bytes", "ws_server_max_message_bytes"),
        ("ws_server_privat_address", "ws_server_private_address"),
        ("vendor_packages_keys", "vendor_packages_key"),
        ("redis_max_memory", "redis_maxmemory"),
        ("nginx_domian", "nginx_domain"),
    ],
)
def test_a_misspelt_variable(written, meant):
    assert names(written) == [f"{written} is not a variable of this collection: did you mean {meant}?"]


def test_an_unknown_variable():
    assert names("ws_server_banana") == [
        "ws_server_banana is not a variable of this collection: correct its name, or remove it."
    ]


def test_every_variable_of_the_roles_is_known():
    assert len(documented()) > 100
    assert names(*documented()) == []


def test_variables_of_the_playbooks_and_facts_of_roles_are_known():
    given = set()
    for path in [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")]:
        given |= set(re.findall(r"^\s+(\w+):(?= |$)", path.read_text(), re.MULTILINE))
    given |= set(re.findall(r"^(\w+):", (ROOT / "playbooks/vars/fleet.yml").read_text(), re.MULTILINE))
    assert {"redis_endpoint", "ws_server_fleet", "ws_server_private_address", "ws_edge_group"} <= given
    # A role passes these variables to its own task file, and no later play has them.
    given -= {"ws_server_instance", "ws_server_generation"}
    assert names(*given) == []


@pytest.mark.parametrize(
    "name",
    [
        "_ws_server_version", "__ws_server_jwks", "ws_roll_serial", "ws_lock_break", "ws_host", "ws_action", "ws_even_so",
        "ws_observability_parts", "ws_edge_group", "ansible_host", "nginx_user", "nginx_vhosts", "redis_version",
        "postgres_users", "postgres_databases", "prometheus_web_listen_address", "grafana_security",
    ],
)  # fmt: skip
def test_variables_of_others_are_left_alone(name):
    assert names(name) == []


def test_a_move_in_check_mode():
    assert_told(move("one", ansible_check_mode=True), "move_store has no check mode", "Run it without --check")
