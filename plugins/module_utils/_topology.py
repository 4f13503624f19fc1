# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The addresses, ports and connections of a fleet, from the groups and host variables of the
inventory.

Each public property of `Topology` is a value for the current host. playbooks/vars/fleet.yml assigns
the values to the variables of the roles. A value is computed when it is read: reading the variables
of another host is slow, and some values need the results of an earlier check. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.selfhost.websocket.plugins.module_utils._addresses import (
    LOOPBACK,
    default_address,
    is_private,
    split_endpoint,
    url_host,
)
from ansible_collections.selfhost.websocket.plugins.module_utils._checks import whole

# The variables of roles whose value in the inventory is used, alone or as a part.
FROM_INVENTORY = frozenset(
    {
        "exporters_enabled",
        "grafana_prometheus_url",
        "grafana_public_url",
        "nginx_metrics_listen_address",
        "nginx_status",
        "ws_server_allowed_origins",
        "ws_server_api_clients",
        "ws_server_otlp_endpoint",
    }
)

# The group of each part of the fleet. The command line may name another group: -e
# ws_edge_group=web.
GROUPS = ("ws_edge", "ws_workers", "ws_redis", "ws_postgres", "ws_observability")

# Hosts in this group are optional.
_OBSERVABILITY = "ws_observability"

# The default of ws_server_instances.
INSTANCES = 4

_EXPORTERS = {"node": "9100", "redis": "9121", "postgres": "9187", "nginx": "9113"}
_PARTS = ["grafana", "loki", "tempo"]
# The ports of Grafana, Loki, Tempo (7946 for itself) and Alloy (4318, 12345).
_PART_PORTS = [3000, 3100, 9096, 3200, 4328, 7946, 9097, 4318, 12345]
_API_OF_EDGE, _WATCHER, _STATUS = "9079", "9145", "9146"
_PROMETHEUS = ["9090", "9093", "9115"]


class UnknownError(Exception):
    """A value needs information that neither the inventory nor an earlier check provides."""


class Topology:
    """The values that describe the fleet to one host."""

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        hostvars: Mapping[str, Mapping[str, Any]],
        host: str,
        names: Mapping[str, str] | None = None,
    ):
        """`names` has the inventory's names for `GROUPS`.

        The pattern of a play belongs to no host, so `host` is empty there. Ansible reads the first
        pattern, and with --syntax-check all patterns, before there are `hostvars`.
        """
        self._groups = groups
        self._hostvars = hostvars
        self._names = dict(zip(GROUPS, GROUPS, strict=True)) | dict(names or {})
        self._host = host
        self._read: dict[str, Mapping[str, Any]] = {}

    def value(self, name: str) -> Any:
        """Returns the value of a property by its name."""
        if name not in VALUES:
            raise UnknownError(f"The topology has no value {name!r}: ask for one of {', '.join(VALUES)}.")
        return getattr(self, name)

    # The hosts.

    @property
    def pattern(self) -> str:
        """The hosts of the fleet, as a play has them."""
        observability = [self._names[_OBSERVABILITY]] if self.observers else []
        return ":".join([self._names[group] for group in GROUPS if group != _OBSERVABILITY] + observability)

    @property
    def hosts(self) -> list[str]:
        """All hosts of the fleet."""
        deployed = [host for group in GROUPS if group != _OBSERVABILITY for host in self._in(group)]
        return _unique(deployed + self.observers)

    @property
    def observers(self) -> list[str]:
        """The host that monitors the fleet, or none."""
        return list(self._groups.get(self._names[_OBSERVABILITY], []))

    @property
    def lock_host(self) -> str:
        """The host that keeps the lock of the fleet."""
        return self._workers[0]

    @property
    def address(self) -> str:
        """The address at which the fleet reaches the host, or nothing."""
        return self._known_address(self._host)

    @property
    def address_is_private(self) -> bool:
        """Whether only hosts of a private network reach that address."""
        return is_private(self.address)

    @property
    def addresses(self) -> dict[str, str]:
        """The address of each host of the fleet, or nothing where it is unknown."""
        return {host: self._known_address(host) for host in self.hosts}

    # Redis and Postgres. They open a port only where a worker runs on another host.

    @property
    def clients_are_local(self) -> bool:
        """Whether all workers run on this host."""
        return self._workers == [self._host]

    @property
    def redis_host(self) -> str:
        """The host that has Redis."""
        return self._in("ws_redis")[0]

    @property
    def postgres_host(self) -> str:
        """The host that has Postgres."""
        return self._in("ws_postgres")[0]

    @property
    def redis(self) -> dict[str, Any]:
        """The endpoint of Redis for the workers of the host. Without an address, they use the
        socket."""
        return self._store(self.redis_host, "redis_endpoint")

    @property
    def postgres(self) -> dict[str, Any]:
        """The endpoint of Postgres for the workers of the host. Without an address, they use the
        socket."""
        return self._store(self.postgres_host, "postgres_endpoint")

    @property
    def postgres_system_user(self) -> str:
        """The user that the workers run as."""
        user: str = self._of(self._workers[0]).get("ws_server_user", "app")
        return user

    @property
    def postgres_client_addresses(self) -> list[str]:
        """The addresses of the workers of other hosts."""
        return [self._address(host) for host in self._workers if host != self._host]

    # The workers.

    @property
    def listen_address(self) -> str:
        """The listen address of the workers: loopback, unless another host is an edge, has workers
        or monitors."""
        return self._listen_address(self._host)

    @property
    def endpoints(self) -> list[str]:
        """The workers of the fleet, each as ADDRESS:PORT."""
        return [endpoint for host in self._workers for endpoint in self._endpoints(host)]

    @property
    def origins(self) -> list[str]:
        """The web pages that may connect: the inventory's list, or the pages of the edges' domains."""
        listed: list[str] | None = self._own("ws_server_allowed_origins")
        if listed is not None:
            return listed
        return self._own_pages

    @property
    def edge_origins(self) -> list[str]:
        """The web pages that may read an edge's answers: all that may connect to any worker."""
        every = (self._of(host).get("ws_server_allowed_origins", self._own_pages) for host in self._workers)
        return _unique(_flat(every))

    @property
    def _own_pages(self) -> list[str]:
        return _unique(f"https://{url_host(self._domain(edge).lower())}" for edge in self._edges)

    # The server API. It stays on loopback, unless the inventory lets backends on other hosts use
    # it. Such backends come through an edge. So the workers' own ports are for the edges, for the
    # addresses that the inventory names, and for backends on the same host.

    @cached_property
    def api_clients(self) -> list[str]:
        """The backends on other hosts."""
        return _unique(_flat(self._of(host).get("ws_server_api_clients", []) for host in self._workers))

    @property
    def api_listen_address(self) -> str:
        """The listen address of the workers' API."""
        return self._api_listen_address(self._host)

    @property
    def api_allowed(self) -> list[str]:
        """The addresses that may use the workers' API."""
        if not self._has_api_behind_edges(self._host):
            return []
        passing = _unique([*self._edges, self._host])
        return self.api_clients + [self._address(host) for host in passing]

    @property
    def edge_api_listen_address(self) -> str:
        """The address at which the edge offers the API to other hosts, or nothing."""
        return self._address(self._host) if self.api_clients else ""

    @property
    def edge_api_workers(self) -> list[str]:
        """The API of all workers, or of this host's workers where the APIs are on loopback."""
        hosts = self._workers if self.api_clients else [host for host in self._workers if host == self._host]
        return [self._nearest(endpoint) for host in hosts for endpoint in self._api_endpoints(host)]

    # The edges. An edge reaches its own host's workers over loopback, where they always listen. So
    # the edge keeps these workers while a fleet grows to more hosts, or shrinks to one.

    @property
    def edge_workers(self) -> list[str]:
        """The workers of the fleet, as the edge reaches them."""
        return [self._nearest(endpoint) for endpoint in self.endpoints]

    @property
    def edges(self) -> list[dict[str, Any]]:
        """How clients connect, and the address at which each edge reaches the workers of this host."""
        return [
            {
                "edge": edge,
                "url": f"wss://{url_host(self._domain(edge))}/ws",
                "address": self._address(edge),
                "workers_address": LOOPBACK if edge == self._host else self.listen_address,
                "own_authority": self._has_own_authority(edge),
            }
            for edge in self._edges
        ]

    # The exporters. On the host of Prometheus they listen on loopback.

    @property
    def exporter_ports(self) -> dict[str, str]:
        """The port of each exporter."""
        return dict(_EXPORTERS)

    @property
    def exporters(self) -> list[str]:
        """The exporters that the inventory enables, if the host runs what they export."""
        wanted = self._own("exporters_enabled", list(_EXPORTERS))
        # An unknown name stays, so that the role refuses it.
        return [name for name in wanted if name not in _EXPORTERS or self._host in self._exporter_hosts(name)]

    @property
    def exporters_listen_address(self) -> str:
        """The listen address of the exporters."""
        return self._metrics_address or LOOPBACK

    @property
    def exporters_clients(self) -> list[str]:
        """The Prometheus on another host."""
        return [self._address(self.observers[0])] if self._metrics_address else []

    @property
    def has_lock_metrics(self) -> bool:
        """Whether the host exports the state of the fleet's lock."""
        return self._host == self.lock_host and "node" in self.exporters

    @property
    def nginx_status(self) -> Any:
        """Whether nginx shows its counts of connections to its exporter."""
        return self._own("nginx_status", bool(self.observers) and "nginx" in self.exporters)

    @property
    def nginx_metrics_listen_address(self) -> str:
        """The address at which a Prometheus on another host scrapes the edge watcher, or nothing."""
        address: str | None = self._own("nginx_metrics_listen_address")
        return self._metrics_address if address is None else address

    # Monitoring.

    @property
    def targets(self) -> list[dict[str, str]]:
        """The targets that Prometheus scrapes: over loopback, if they are on its own host."""
        return [target for host in self.hosts for target in self._targets(host)]

    @property
    def probed_edges(self) -> list[dict[str, Any]]:
        """The edges that Prometheus probes."""
        return [
            {
                "host": edge,
                "address": self._address(edge),
                "domain": self._domain(edge),
                "own_authority": self._has_own_authority(edge),
            }
            for edge in self._edges
        ]

    @property
    def parts(self) -> list[str]:
        """Those of Grafana, Loki and Tempo that run beside Prometheus."""
        parts: list[str] = self._of(self.observers[0]).get("ws_observability_parts", _PARTS) if self.observers else []
        return parts

    @property
    def part_ports(self) -> list[int]:
        """The ports of the parts."""
        return list(_PART_PORTS)

    @property
    def ships(self) -> bool:
        """Whether every host sends its logs or traces to the monitoring host."""
        return "loki" in self.parts or "tempo" in self.parts

    @property
    def other_addresses(self) -> list[str]:
        """The addresses of the other hosts, which send logs and traces."""
        return [self._address(host) for host in self.hosts if host != self._host]

    @property
    def collector_listen_address(self) -> str:
        """The listen address of Loki and Tempo."""
        return self._address(self._host) if self.other_addresses else LOOPBACK

    @property
    def loki_url(self) -> str:
        """The URL to which the host sends its logs, or nothing."""
        return f"{self._observer_url}:3100" if "loki" in self.parts else ""

    @property
    def tempo_url(self) -> str:
        """The URL to which the host sends its traces, or nothing."""
        return f"{self._observer_url}:4328" if "tempo" in self.parts else ""

    @property
    def otlp_endpoint(self) -> str:
        """The URL to which workers send traces: from the inventory, or Alloy on their host, or
        nothing."""
        endpoint: str = self._own("ws_server_otlp_endpoint", "http://127.0.0.1:4318" if "tempo" in self.parts else "")
        return endpoint

    @property
    def tempo_query_url(self) -> str:
        """The URL at which Grafana queries Tempo, or nothing."""
        return "http://127.0.0.1:3200" if "tempo" in self.parts else ""

    @property
    def grafana_public_url(self) -> str:
        """The URL of Grafana for browsers: from the inventory, or behind the edge on this host."""
        url: str | None = self._own("grafana_public_url")
        if url is not None:
            return url
        if self._host not in self._edges or not boolean(self._own("nginx_grafana", False), strict=False):
            return ""
        return f"https://{url_host(self._domain(self._host))}/grafana/"

    @property
    def grafana_prometheus_url(self) -> str:
        """The URL at which Grafana queries Prometheus, which listens at one address."""
        address = self._own("prometheus_listen_address", LOOPBACK)
        url: str = self._own("grafana_prometheus_url", f"http://{url_host(address)}:9090")
        return url

    @property
    def observing_units(self) -> list[str]:
        """The units that monitor this host, or the fleet from this host."""
        units = ["alloy"] if self.ships else []
        if self._host in self.observers:
            parts = ["grafana-server" if part == "grafana" else part for part in self.parts]
            units = ["prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter", *parts, *units]
        units += [f"prometheus-{name}-exporter" for name in self.exporters] if self.observers else []
        timers = ["ws-fleet-lock-metrics.timer"] if self.observers and self.has_lock_metrics else []
        return [f"{unit}.service" for unit in units] + timers

    # Ports.

    @property
    def reserved_ports(self) -> list[Any]:
        """The ports that no outgoing connection may take, because a service of some host needs
        them."""
        api = [endpoint for host in self._workers for endpoint in self._api_endpoints(host)]
        ports: list[Any] = _unique(split_endpoint(endpoint)[1] for endpoint in self.endpoints + api)
        ports += [_API_OF_EDGE, _WATCHER, self.redis["port"], self.postgres["port"]]
        if self.observers:
            ports += [_STATUS, *_EXPORTERS.values(), *_PROMETHEUS]
        if self.parts:
            ports += map(str, _PART_PORTS)
        return ports

    # Shared by the values above.

    @property
    def _metrics_address(self) -> str:
        """The address at which a Prometheus on another host scrapes this host, or nothing."""
        return "" if self.observers in ([], [self._host]) else self._address(self._host)

    def _in(self, group: str) -> list[str]:
        name = self._names[group]
        if name not in self._groups:
            raise UnknownError(f"The inventory has no group {name}.")
        return list(self._groups[name])

    @property
    def _edges(self) -> list[str]:
        return self._in("ws_edge")

    @property
    def _workers(self) -> list[str]:
        return self._in("ws_workers")

    def _of(self, host: str) -> Mapping[str, Any]:
        """The variables of a host, read once: Ansible merges them again at each read."""
        if host not in self._read:
            self._read[host] = self._hostvars.get(host, {})
        return self._read[host]

    def _own(self, name: str, default: Any = None) -> Any:
        """A variable of the current host."""
        return self._of(self._host).get(name, default)

    def _needed(self, host: str, name: str) -> Any:
        variables = self._of(host)
        if name not in variables:
            raise UnknownError(f"{name} of {host} is not known.")
        return variables[name]

    def _known_address(self, host: str) -> str:
        variables = self._of(host)
        if "ws_server_private_address" in variables:
            return str(variables["ws_server_private_address"])
        return default_address(variables.get("ansible_facts", {}))

    def _address(self, host: str) -> str:
        address = self._known_address(host)
        if not address and "ws_server_private_address" not in self._of(host):
            raise UnknownError(f"The address of {host} is not known: give that host ws_server_private_address.")
        return address

    def _domain(self, edge: str) -> str:
        return str(self._needed(edge, "nginx_domain"))

    def _has_own_authority(self, edge: str) -> bool:
        variables = self._of(edge)
        return variables.get("nginx_tls_mode", "selfsigned") == "selfsigned" or bool(variables.get("nginx_tls_ca", ""))

    def _store(self, host: str, endpoint: str) -> dict[str, Any]:
        found = self._needed(host, endpoint)
        return {**found, "address": "" if host == self._host else found["address"]}

    def _listen_address(self, host: str) -> str:
        others = _unique([*self._edges, *self._workers, *self.observers])
        return LOOPBACK if others == [host] else self._address(host)

    def _has_api_behind_edges(self, host: str) -> bool:
        return bool(self.api_clients) and self._edges != [host]

    def _api_listen_address(self, host: str) -> str:
        return self._address(host) if self._has_api_behind_edges(host) else LOOPBACK

    # The role ws_server sets the endpoints of the workers of its host as facts. A host that --limit
    # leaves out has no such facts in this run.

    def _endpoints(self, host: str) -> list[str]:
        if "ws_server_endpoints" in self._of(host):
            return list(self._of(host)["ws_server_endpoints"])
        return self._ports(host, self._listen_address(host), "80")

    def _api_endpoints(self, host: str) -> list[str]:
        if "ws_server_api_endpoints" in self._of(host):
            return list(self._of(host)["ws_server_api_endpoints"])
        return self._ports(host, self._api_listen_address(host), "90")

    def _ports(self, host: str, address: str, prefix: str) -> list[str]:
        count = whole(self._of(host).get("ws_server_instances", INSTANCES))
        return [f"{url_host(address)}:{prefix}{instance}" for instance in range(80, 80 + count)]

    def _nearest(self, endpoint: str) -> str:
        address, port = split_endpoint(endpoint)
        return f"{LOOPBACK}:{port}" if address == self._address(self._host) else endpoint

    def _exporter_hosts(self, exporter: str) -> list[str]:
        groups = {"redis": "ws_redis", "postgres": "ws_postgres", "nginx": "ws_edge"}
        return self._in(groups[exporter]) if exporter in groups else self.hosts

    def _targets(self, host: str) -> Iterable[dict[str, str]]:
        address = LOOPBACK if host == self._host else url_host(self._address(host))
        for endpoint in self._endpoints(host) if host in self._workers else []:
            port = split_endpoint(endpoint)[1]
            yield {"job": "ws_server", "host": host, "worker": port[-2:], "address": f"{address}:{port}"}
        if host in self._edges:
            yield {"job": "watcher", "host": host, "address": f"{address}:{_WATCHER}"}
        enabled = self._of(host).get("exporters_enabled", _EXPORTERS)
        for exporter, port in _EXPORTERS.items():
            if exporter in enabled and host in self._exporter_hosts(exporter):
                yield {"job": exporter, "host": host, "address": f"{address}:{port}"}

    @property
    def _observer_url(self) -> str:
        address = LOOPBACK if len(self.hosts) == 1 else self._address(self.observers[0])
        return f"http://{url_host(address)}"


VALUES = tuple(
    name
    for name, member in vars(Topology).items()
    if isinstance(member, (property, cached_property)) and not name.startswith("_")
)


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _flat(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        elif item is not None:
            yield item
