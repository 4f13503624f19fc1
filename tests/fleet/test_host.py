# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The roles' effects on the host: limits, hardening, secrets, open ports."""

from __future__ import annotations

import pytest
from fleet import Fleet


def test_sysctl(fleet: Fleet) -> None:
    def value(name: str) -> str:
        return " ".join(fleet.ssh(fleet.worker_host, f"sysctl --values {name}").split())

    assert int(value("fs.file-max")) >= 2_000_000
    assert int(value("net.ipv4.tcp_max_syn_backlog")) >= 8192
    assert int(value("net.core.somaxconn")) >= 65535
    assert value("net.ipv4.ip_local_port_range") == "1024 65535"
    assert value("net.ipv4.tcp_tw_reuse") == "1"
    last = max(fleet.instances())
    reserved = set(value("net.ipv4.ip_local_reserved_ports").split(","))
    assert {f"8080-80{last}", f"9079-90{last}"} <= reserved


def test_the_edge_listens_with_the_kernels_backlog(fleet: Fleet) -> None:
    queue = fleet.ssh(fleet.edge, "ss --no-header --listening --tcp --numeric 'sport = :443'").split()[2]
    assert int(queue) >= 65535


@pytest.mark.parametrize("instance", ["80", "81"])
def test_the_workers_unit(fleet: Fleet, instance: str) -> None:
    wanted = {
        "Type": "notify",
        "User": "app",
        "Restart": "always",
        "RestartUSec": "5s",
        "LimitNOFILE": "1048576",
        "LimitCORE": "0",
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
    }
    names = ",".join(wanted)
    lines = fleet.ssh(fleet.worker_host, f"systemctl show --property={names} ws-server@{instance}").splitlines()
    assert dict(line.split("=", 1) for line in lines) == wanted
    security = fleet.ssh(fleet.worker_host, f"systemd-analyze security --no-pager ws-server@{instance} | tail -1")
    exposure = float(security.split("ws-server@")[1].split(":")[1].split()[0])
    assert exposure <= 1.5


def test_every_service_restarts_after_any_end(fleet: Fleet) -> None:
    ours = "nginx* redis-* postgresql@* prometheus* ws-* grafana-* loki* tempo* alloy*"
    for host in fleet.hosts:
        command = f"systemctl show --property=Id,Restart,StartLimitIntervalUSec --state=running --type=service {ours}"
        shown = [
            dict(line.split("=", 1) for line in unit.splitlines()) for unit in fleet.ssh(host, command).split("\n\n")
        ]
        assert [unit for unit in shown if (unit["Restart"], unit["StartLimitIntervalUSec"]) != ("always", "0")] == []


def test_only_root_and_services_read_secrets(fleet: Fleet) -> None:
    assert fleet.ssh(fleet.worker_host, "stat --format='%a %U %G' /etc/ws-server/env").split() == ["640", "root", "app"]
    for key in ("jwt-secret", "api-key"):
        where = f"/etc/ws-server/{key}"
        assert fleet.ssh(fleet.worker_host, f"stat --format='%a %U' {where}").split() == ["600", "root"]
    for host in fleet.hosts:
        leaks = "grep -rlE '^(WS_JWT_SECRET|WS_API_KEY|WS_REDIS_PASSWORD)=' /etc /opt 2>/dev/null | xargs -r stat --format='%A %n'"
        modes = fleet.ssh(host, leaks, check=False).splitlines()
        assert [line for line in modes if line[7] != "-"] == []
    keys = "find /etc/ssl/ws /etc/nginx -name '*.key' -printf '%m\\n'"
    assert set(fleet.ssh(fleet.edge, keys).split()) == {"600"}


def test_only_the_edge_listens_publicly(fleet: Fleet) -> None:
    """Redis, Postgres, the workers and monitoring listen on loopback, or on the private address.

    They use the private address only if another host needs them.
    """
    for host, facts in fleet.hosts.items():
        listing = fleet.ssh(host, "ss --no-header --listening --tcp --numeric | awk '{print $4}'").split()
        observed = (3100, 4328, 9100, 9113, 9121, 9145, 9187) if fleet.observability else ()
        private = {f"{facts['address']}:{port}" for port in (5432, 6379, 8080, 8081, 8082, 8083, *observed)}
        loopback = ("127.", "[::1]")
        edge = (":22", *((":80", ":443") if "ws_edge" in facts["groups"] else ()))
        allowed = private if len(fleet.hosts) > 1 else set()
        strangers = [
            at for at in listing if not at.startswith(loopback) and not at.endswith(edge) and at not in allowed
        ]
        assert strangers == []
