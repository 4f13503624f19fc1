# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The values of each host, for fleets of every form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from program import ROOT

from ansible_collections.selfhost.websocket.plugins.module_utils._topology import (
    FROM_INVENTORY,
    GROUPS,
    INSTANCES,
    VALUES,
    Topology,
    UnknownError,
)

FLEET = yaml.safe_load((ROOT / "playbooks/vars/fleet.yml").read_text())
STORES = {
    "redis_endpoint": {"address": "10.0.0.1", "port": 6379, "socket": "/redis.sock", "unit": "redis-server.service"},
    "postgres_endpoint": {"address": "10.0.0.1", "port": 5433, "socket": "/postgres", "database": "ws", "user": "app"},
}
ONE = {group: ["one"] for group in GROUPS[:4]}
OBSERVED = ONE | {"ws_observability": ["one"]}
# An edge with workers and the stores, a host with workers, and a monitoring host.
THREE = {
    "ws_edge": ["one"],
    "ws_workers": ["one", "two"],
    "ws_redis": ["one"],
    "ws_postgres": ["one"],
    "ws_observability": ["three"],
}
# The edges have no workers.
EDGES = {"ws_edge": ["one", "two"], "ws_workers": ["three"], "ws_redis": ["three"], "ws_postgres": ["three"]}
API = {"ws_server_api_clients": ["10.9.0.1", ["10.9.1.0/24"]]}
IPV6 = {name: {"ws_server_private_address": f"fd00::{name}"} for name in ("one", "two", "three")}


def topology(
    groups: dict[str, list[str]],
    host: str,
    names: dict[str, str] | None = None,
    **variables: dict[str, Any],
) -> Topology:
    """A fleet of hosts with the addresses 10.0.0.1 to 10.0.0.3, two workers, and these variables."""
    hosts = {
        name: {
            "ws_server_private_address": f"10.0.0.{number}",
            "nginx_domain": "ws.example.org",
            "ws_server_instances": 2,
        }
        | STORES
        | variables.get(name, {})
        for number, name in enumerate(("one", "two", "three"), 1)
    }
    return Topology(groups, hosts, host, names)


def exporters(address: str, host: str, *names: str) -> list[dict[str, str]]:
    ports = {"node": 9100, "redis": 9121, "postgres": 9187, "nginx": 9113}
    return [{"job": name, "host": host, "address": f"{address}:{ports[name]}"} for name in names]


# A fleet, the current host, the variables of hosts, and the expected values.
CASES: dict[str, tuple[dict[str, list[str]], str, dict[str, Any], dict[str, Any]]] = {
    "one host": (
        ONE,
        "one",
        {},
        {
            "hosts": ["one"],
            "pattern": "ws_edge:ws_workers:ws_redis:ws_postgres",
            "observers": [],
            "lock_host": "one",
            "clients_are_local": True,
            "postgres_client_addresses": [],
            "postgres_system_user": "app",
            "listen_address": "127.0.0.1",
            "endpoints": ["127.0.0.1:8080", "127.0.0.1:8081"],
            "edge_workers": ["127.0.0.1:8080", "127.0.0.1:8081"],
            "edge_api_workers": ["127.0.0.1:9080", "127.0.0.1:9081"],
            "edge_api_listen_address": "",
            "api_listen_address": "127.0.0.1",
            "api_allowed": [],
            "origins": ["https://ws.example.org"],
            "edge_origins": ["https://ws.example.org"],
            "nginx_status": False,
            "nginx_metrics_listen_address": "",
            "exporters": ["node", "redis", "postgres", "nginx"],
            "exporters_listen_address": "127.0.0.1",
            "exporters_clients": [],
            "parts": [],
            "ships": False,
            "loki_url": "",
            "tempo_url": "",
            "otlp_endpoint": "",
            "grafana_public_url": "",
            "observing_units": [],
            "reserved_ports": ["8080", "8081", "9080", "9081", "9079", "9145", 6379, 5433],
        },
    ),
    "one host that observes itself": (
        OBSERVED,
        "one",
        {"one": {"ws_server_instances": 1, "nginx_grafana": "yes"}},
        {
            "pattern": "ws_edge:ws_workers:ws_redis:ws_postgres:ws_observability",
            "listen_address": "127.0.0.1",
            "nginx_status": True,
            "exporters_listen_address": "127.0.0.1",
            "parts": ["grafana", "loki", "tempo"],
            "collector_listen_address": "127.0.0.1",
            "other_addresses": [],
            "loki_url": "http://127.0.0.1:3100",
            "tempo_url": "http://127.0.0.1:4328",
            "tempo_query_url": "http://127.0.0.1:3200",
            "otlp_endpoint": "http://127.0.0.1:4318",
            "grafana_public_url": "https://ws.example.org/grafana/",
            "grafana_prometheus_url": "http://127.0.0.1:9090",
            "has_lock_metrics": True,
            "targets": [
                {"job": "ws_server", "host": "one", "worker": "80", "address": "127.0.0.1:8080"},
                {"job": "watcher", "host": "one", "address": "127.0.0.1:9145"},
                *exporters("127.0.0.1", "one", "node", "redis", "postgres", "nginx"),
            ],
            "reserved_ports": [
                *(
                    "8080",
                    "9080",
                    "9079",
                    "9145",
                    6379,
                    5433,
                    "9146",
                    "9100",
                    "9121",
                    "9187",
                    "9113",
                    "9090",
                    "9093",
                    "9115",
                ),
                *("3000", "3100", "9096", "3200", "4328", "7946", "9097", "4318", "12345"),
            ],
        },
    ),
    "three hosts, for the first": (
        THREE,
        "one",
        {},
        {
            "hosts": ["one", "two", "three"],
            "clients_are_local": False,
            "postgres_client_addresses": ["10.0.0.2"],
            "redis": STORES["redis_endpoint"] | {"address": ""},
            "postgres": STORES["postgres_endpoint"] | {"address": ""},
            "listen_address": "10.0.0.1",
            "endpoints": ["10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.2:8080", "10.0.0.2:8081"],
            "edge_workers": ["127.0.0.1:8080", "127.0.0.1:8081", "10.0.0.2:8080", "10.0.0.2:8081"],
            "edge_api_workers": ["127.0.0.1:9080", "127.0.0.1:9081"],
            "nginx_metrics_listen_address": "10.0.0.1",
            "exporters_listen_address": "10.0.0.1",
            "exporters_clients": ["10.0.0.3"],
            "loki_url": "http://10.0.0.3:3100",
            "tempo_url": "http://10.0.0.3:4328",
            "observing_units": [
                "alloy.service",
                *(f"prometheus-{name}-exporter.service" for name in ("node", "redis", "postgres", "nginx")),
                "ws-fleet-lock-metrics.timer",
            ],
        },
    ),
    "three hosts, for the second": (
        THREE,
        "two",
        {"two": {"ws_server_instances": "1"}},
        {
            "redis": STORES["redis_endpoint"],
            "postgres": STORES["postgres_endpoint"],
            "redis_host": "one",
            "postgres_host": "one",
            "listen_address": "10.0.0.2",
            "endpoints": ["10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.2:8080"],
            "exporters": ["node"],
            "has_lock_metrics": False,
            "edges": [
                {
                    "edge": "one",
                    "url": "wss://ws.example.org/ws",
                    "address": "10.0.0.1",
                    "workers_address": "10.0.0.2",
                    "own_authority": True,
                }
            ],
        },
    ),
    "three hosts, for the observer": (
        THREE,
        "three",
        {"three": {"ws_observability_parts": ["loki"]}},
        {
            "exporters": ["node"],
            "exporters_listen_address": "127.0.0.1",
            "collector_listen_address": "10.0.0.3",
            "other_addresses": ["10.0.0.1", "10.0.0.2"],
            "ships": True,
            "tempo_url": "",
            "targets": [
                {"job": "ws_server", "host": "one", "worker": "80", "address": "10.0.0.1:8080"},
                {"job": "ws_server", "host": "one", "worker": "81", "address": "10.0.0.1:8081"},
                {"job": "watcher", "host": "one", "address": "10.0.0.1:9145"},
                *exporters("10.0.0.1", "one", "node", "redis", "postgres", "nginx"),
                {"job": "ws_server", "host": "two", "worker": "80", "address": "10.0.0.2:8080"},
                {"job": "ws_server", "host": "two", "worker": "81", "address": "10.0.0.2:8081"},
                *exporters("10.0.0.2", "two", "node"),
                *exporters("127.0.0.1", "three", "node"),
            ],
            "probed_edges": [{"host": "one", "address": "10.0.0.1", "domain": "ws.example.org", "own_authority": True}],
            "observing_units": [
                f"{unit}.service"
                for unit in (
                    *("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter", "loki", "alloy"),
                    "prometheus-node-exporter",
                )
            ],
        },
    ),
    "an observer without logs and traces": (
        THREE,
        "one",
        {"three": {"ws_observability_parts": []}},
        {"ships": False, "loki_url": "", "otlp_endpoint": "", "nginx_status": True},
    ),
    "two edges": (
        EDGES,
        "two",
        {
            "one": {"nginx_domain": "A.example.org", "nginx_tls_mode": "files"},
            "two": {"nginx_domain": "a.example.org", "nginx_tls_mode": "files", "nginx_tls_ca": "ca.pem"},
        },
        {
            "origins": ["https://a.example.org"],
            "edge_workers": ["10.0.0.3:8080", "10.0.0.3:8081"],
            "edge_api_workers": [],
            "edges": [
                {
                    "edge": "one",
                    "url": "wss://A.example.org/ws",
                    "address": "10.0.0.1",
                    "workers_address": "10.0.0.2",
                    "own_authority": False,
                },
                {
                    "edge": "two",
                    "url": "wss://a.example.org/ws",
                    "address": "10.0.0.2",
                    "workers_address": "127.0.0.1",
                    "own_authority": True,
                },
            ],
        },
    ),
    "the API behind another edge, for the edge": (
        EDGES,
        "one",
        {"three": API},
        {
            "api_clients": ["10.9.0.1", "10.9.1.0/24"],
            "edge_api_listen_address": "10.0.0.1",
            "edge_api_workers": ["10.0.0.3:9080", "10.0.0.3:9081"],
        },
    ),
    "the API behind another edge, for the workers": (
        EDGES,
        "three",
        {"three": API},
        {
            "api_listen_address": "10.0.0.3",
            "api_allowed": ["10.9.0.1", "10.9.1.0/24", "10.0.0.1", "10.0.0.2", "10.0.0.3"],
        },
    ),
    "the API behind the edge of the same host": (
        ONE,
        "one",
        {"one": API},
        {"api_listen_address": "127.0.0.1", "api_allowed": [], "edge_api_listen_address": "10.0.0.1"},
    ),
    "IPv6": (
        THREE,
        "one",
        IPV6
        | {
            "one": IPV6["one"]
            | {"nginx_domain": "2001:db8::1", "ws_server_instances": 1, "ws_server_api_clients": ["fd00::9"]}
        },
        {
            "listen_address": "fd00::one",
            "endpoints": ["[fd00::one]:8080", "[fd00::two]:8080", "[fd00::two]:8081"],
            "edge_workers": ["127.0.0.1:8080", "[fd00::two]:8080", "[fd00::two]:8081"],
            "edge_api_workers": ["127.0.0.1:9080", "[fd00::two]:9080", "[fd00::two]:9081"],
            "postgres_client_addresses": ["fd00::two"],
            "origins": ["https://[2001:db8::1]"],
            "loki_url": "http://[fd00::three]:3100",
            "exporters_listen_address": "fd00::one",
        },
    ),
    "the inventory's own values": (
        THREE,
        "one",
        {
            "one": {
                "exporters_enabled": ["nginx", "nodes"],
                "nginx_status": "no",
                "nginx_metrics_listen_address": "",
                "ws_server_allowed_origins": ["*"],
                "ws_server_otlp_endpoint": "",
                "ws_server_user": "wsapp",
                "prometheus_listen_address": "fd00::1",
                "grafana_public_url": "https://charts.example.org/",
            }
        },
        {
            "exporters": ["nginx", "nodes"],
            "nginx_status": "no",
            "nginx_metrics_listen_address": "",
            "origins": ["*"],
            "edge_origins": ["*", "https://ws.example.org"],
            "otlp_endpoint": "",
            "postgres_system_user": "wsapp",
            "grafana_prometheus_url": "http://[fd00::1]:9090",
            "grafana_public_url": "https://charts.example.org/",
        },
    ),
    "another Prometheus": (
        ONE,
        "one",
        {"one": {"prometheus_listen_address": "10.0.0.1", "grafana_prometheus_url": "http://10.0.0.9:9090"}},
        {"grafana_prometheus_url": "http://10.0.0.9:9090"},
    ),
    "the results of the checks": (
        ONE,
        "one",
        {"one": {"ws_server_endpoints": ["127.0.0.1:8080"], "ws_server_api_endpoints": ["127.0.0.1:9080"]}},
        {"endpoints": ["127.0.0.1:8080"], "edge_api_workers": ["127.0.0.1:9080"]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_values_of_a_host(name: str) -> None:
    groups, host, variables, expected = CASES[name]
    fleet = topology(groups, host, **variables)
    assert {value: fleet.value(value) for value in expected} == expected


def test_the_workers_api_on_loopback_where_the_edge_is_on_the_same_host_alone() -> None:
    fleet = topology(ONE, "one", one=API)
    assert fleet.edge_api_workers == ["127.0.0.1:9080", "127.0.0.1:9081"]


def test_the_patterns_of_plays_before_there_are_variables_of_hosts() -> None:
    fleet = Topology(OBSERVED, {}, "")
    assert fleet.pattern.endswith(":ws_observability")
    assert (fleet.observers, fleet.parts, fleet.ships) == (["one"], ["grafana", "loki", "tempo"], True)
    assert Topology({}, {}, "").pattern == "ws_edge:ws_workers:ws_redis:ws_postgres"


def test_groups_with_other_names() -> None:
    names = dict(zip(GROUPS, ("web", "apps", "cache", "db", "watch"), strict=True))
    groups = {names[group]: hosts for group, hosts in THREE.items()} | {"ws_edge": ["none"]}
    fleet = topology(groups, "one", names)
    assert fleet.pattern == "web:apps:cache:db:watch"
    assert fleet.hosts == ["one", "two", "three"]
    assert fleet.targets == topology(THREE, "one").targets


@pytest.mark.parametrize("groups", [ONE, OBSERVED, THREE, EDGES])
@pytest.mark.parametrize("host", ["one", "three"])
def test_every_value_has_an_answer(groups: dict[str, list[str]], host: str) -> None:
    fleet = topology(groups, host)
    assert set(VALUES) == {value for value in VALUES if fleet.value(value) is not None}


@pytest.mark.parametrize(
    ("without", "value", "error"),
    [
        ("ws_server_private_address", "postgres_client_addresses", "The address of two is not known: give that host "),
        ("ws_server_private_address", "endpoints", "The address of two is not known: give that host "),
        ("redis_endpoint", "redis", "redis_endpoint of two is not known."),
        ("nginx_domain", "edges", "nginx_domain of two is not known."),
    ],
)
def test_a_value_that_is_not_known_yet(without: str, value: str, error: str) -> None:
    """An unknown value of a host is an error, so that no list silently lacks the host."""
    groups = {"ws_edge": ["one", "two"], "ws_workers": ["one", "two"], "ws_redis": ["two"], "ws_postgres": ["one"]}
    fleet = topology(groups, "one")
    fleet._hostvars["two"].pop(without)  # type: ignore[attr-defined]
    with pytest.raises(UnknownError, match=f"^{re.escape(error)}"):
        fleet.value(value)


def test_a_group_or_a_value_that_is_not_there() -> None:
    with pytest.raises(UnknownError, match="has no group ws_edge"):
        topology({}, "one").value("edges")
    for name in ("_hosts", "value", "banana"):
        with pytest.raises(UnknownError, match="The topology has no value"):
            topology(ONE, "one").value(name)


@pytest.mark.parametrize(
    ("facts", "address"),
    [
        ({"default_ipv4": {"address": "10.0.0.9"}, "default_ipv6": {"address": "fd00::9"}}, "10.0.0.9"),
        ({"default_ipv4": {}, "default_ipv6": {"address": "fd00::9"}}, "fd00::9"),
        ({"default_ipv4": {}, "default_ipv6": {}}, ""),
        ({}, ""),
    ],
)
def test_the_address_of_a_host_that_the_inventory_does_not_tell(facts: dict[str, Any], address: str) -> None:
    fleet = topology(THREE, "one")
    fleet._hostvars["two"].pop("ws_server_private_address")  # type: ignore[attr-defined]
    fleet._hostvars["two"]["ansible_facts"] = facts  # type: ignore[index]
    assert fleet.addresses == {"one": "10.0.0.1", "two": address, "three": "10.0.0.3"}
    if address:
        assert fleet.postgres_client_addresses == [address]


class Counting(Mapping[str, Mapping[str, Any]]):
    """The variables of hosts, with a count of reads: Ansible merges the variables at each read."""

    def __init__(self, hosts: dict[str, dict[str, Any]]) -> None:
        self.hosts, self.reads = hosts, 0

    def __getitem__(self, host: str) -> Mapping[str, Any]:
        self.reads += 1
        return self.hosts[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self.hosts)

    def __len__(self) -> int:
        return len(self.hosts)


@pytest.mark.parametrize("value", VALUES)
def test_no_value_reads_the_variables_of_a_host_twice(value: str) -> None:
    names = [f"host{number}" for number in range(20)]
    known = {"ws_server_private_address": "10.0.0.1", "nginx_domain": "ws.example.org", **STORES}
    hosts = Counting(dict.fromkeys(names, known))
    groups = dict.fromkeys(GROUPS, names[:1]) | {"ws_workers": names, "ws_edge": names}
    Topology(groups, hosts, names[3]).value(value)
    assert hosts.reads <= len(names)


def test_fleet_yml_assigns_every_value() -> None:
    asked = re.findall(r"lookup\('selfhost\.websocket\.topology', '(\w+)'\)", str(list(FLEET.values())))
    # The checks of the playbooks use the addresses.
    assert set(asked) | {"address_is_private", "addresses"} == set(VALUES)


def test_the_values_of_the_inventory_are_variables_of_fleet_yml() -> None:
    assert set(FLEET) >= FROM_INVENTORY


def test_the_number_of_workers_is_the_default_of_the_role() -> None:
    defaults = yaml.safe_load((ROOT / "roles/ws_server/defaults/main.yml").read_text())
    assert defaults["ws_server_instances"] == INSTANCES
