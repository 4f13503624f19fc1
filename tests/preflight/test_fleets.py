# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Messages of the checks in site.yml for bad inventories: one run, with a fleet for each case.

tests/unit/roles/test_preflights.py and plugins/module_utils/test_rules.py test each fault alone and
the permitted values.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleets import PYTHON, ROOT, Fleets

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
DEB = {"file": "/no/such.deb", "sha256": "0" * 64}

# The variables of a host, and the beginning of each expected sentence.
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "command_line": (
        {"ws_roll_serial": [1, "250%"], "ws_lock_break": "the door"},
        ["ws_roll_serial is [1, '250%']: ", "ws_lock_break is the door: "],
    ),
    "names": (
        {"ws_server_instance": 3, "nginx_max_client": 5, "nginx_user": "www-data"},
        ["nginx_max_client is not a variable of this collection: did you mean nginx_max_clients?",
         "ws_server_instance is not a variable of this collection: did you mean ws_server_instances?"],
    ),
    "no_domain": ({"nginx_domain": ""}, ["nginx_domain is not set: "]),
    "nginx": (
        {
            "nginx_domain": "https://ws.example.org/",
            "nginx_max_clients": 0,
            "nginx_worker_shutdown_timeout": "soon",
            "nginx_tls_days": 1,
            "nginx_metrics_listen_address": "203.0.113.9",
        },
        [
            "nginx_domain or nginx_tls_extra_names contains 'https://ws.example.org/'",
            "nginx_max_clients is 0",
            "nginx_metrics_listen_address is '203.0.113.9', which is not an address of nginx: set it to one of ",
            "nginx_worker_shutdown_timeout is 'soon'",
            "nginx_tls_days is 1",
        ],
    ),
    "api_clients": (
        {"ws_server_api_clients": ["backend.example.org"], "ws_server_private_address": "10.0.0.5"},
        [
            "nginx_api_clients (in a fleet: ws_server_api_clients) contains 'backend.example.org'",
            "nginx_api_listen_address is '10.0.0.5', which is not an address of api_clients",
        ],
    ),
    "no_certificate": ({"nginx_tls_mode": "files"}, ["nginx_tls_certificate is not a readable PEM file"]),
    "redis": (
        {"redis_port": 0, "redis_maxmemory": "512", "redis_password": "a hush", "redis_maxclients": "0"},
        ["redis_password has a character", "redis_maxmemory is '512'", "redis_maxclients is 0", "redis_port is 0"],
    ),
    "postgres": (
        {"postgres_shared_buffers": "256", "postgres_max_connections": 5, "postgres_password": "a hush"},
        ["postgres_password contains", "postgres_shared_buffers is '256'", "postgres_max_connections is 5"],
    ),
    "ws_server": (
        {
            "ws_server_instances": 0,
            "ws_server_allowed_origins": ["https://a/b"],
            "ws_server_keep": 0,
            "ws_server_ready_timeout": 0,
            "ws_server_drain_timeout_s": 15,
            "ws_server_drain_window_s": 20,
            "ws_server_metrics_gates": ["up == 1", " "],
            "ws_server_prometheus_url": "127.0.0.1:9090",
            "ws_server_memory_max": "big",
            "ws_server_user": "root",
            "ws_server_api_key": "hush",
            "ws_server_jwt_secret": "hush" * 10 + "'",
        },
        [
            "ws_server_instances is 0",
            "ws_server_allowed_origins is ['https://a/b']",
            "ws_server_ready_timeout is 0",
            "ws_server_api_key has 4 characters",
            "ws_server_jwt_secret has a character that a settings file cannot hold",
            "ws_server_keep is 0",
            "ws_server_drain_timeout_s is 15, but a worker sends its clients away over 20 s",
            "ws_server_metrics_gates has an empty expression",
            "ws_server_prometheus_url is '127.0.0.1:9090': set it to the URL where ws_server reaches Prometheus",
            "ws_server_memory_max is 'big'",
            "ws_server_user is 'root'",
        ],
    ),
    "service": (
        {
            "ws_server_messages_per_s": 0,
            "ws_server_trace_ratio": 1.5,
            "ws_server_jwt_audience": 'a "chat"',
            "ws_server_otlp_endpoint": "127.0.0.1:4318",
            "ws_server_default_join": ["lobby", "a,b"],
        },
        [
            "ws_server_jwt_audience is 'a \"chat\"'",
            "ws_server_default_join has 'a,b'",
            "ws_server_messages_per_s is 0",
            "ws_server_otlp_endpoint is '127.0.0.1:4318'",
            "ws_server_trace_ratio is 1.5",
        ],
    ),
    "jwks": (
        {"ws_server_jwt_jwks": "/no/jwks.json"},
        ["ws_server_jwt_jwks is /no/jwks.json, which is no file on jwks"],
    ),
    "sysctl": ({"sysctl_ip_local_port_range": "9 1"}, ["sysctl_ip_local_port_range is '9 1'"]),
    "many_workers": (
        {"ws_server_instances": 11},
        ["On many_workers two services would use the port 9090: put a host without workers into many_workers_ws_obs"],
    ),
    "prometheus": (
        {
            "prometheus_listen_address": "203.0.113.9",
            "prometheus_scrape_interval_s": 90,
            "prometheus_retention_size": "2G",
            "prometheus_webhooks": ["ops"],
            "prometheus_mail_to": ["ops@example.org"],
        },
        [
            "prometheus_listen_address is '203.0.113.9'",
            "prometheus_scrape_interval_s is 90",
            "prometheus_retention_size is '2G'",
            "prometheus_webhooks contains an entry that is not a URL",
            "prometheus_mail_to is set, prometheus_mail_from is ''",
        ],
    ),
    "parts": ({"ws_observability_parts": ["jaeger"]}, ["ws_observability_parts is ['jaeger']: "]),
    "grafana_nowhere": (
        {"ws_observability_parts": ["loki"], "nginx_grafana": True},
        ["nginx_grafana is set for grafana_nowhere, which has no Grafana"],
    ),
    "loki": (
        {"loki_retention_days": 0, "loki_memory_max": "big"},
        ["loki_retention_days is 0", "loki_memory_max is 'big'"],
    ),
    "vendor": (
        {
            "vendor_packages_key_fingerprints": ["b53a"],
            "vendor_packages_key": "/no/such/key",
            "vendor_packages_repository": "mirror",
        },
        [
            "vendor_packages_repository is 'mirror'",
            "vendor_packages_key_fingerprints is ['b53a']",
            "vendor_packages_key is '/no/such/key'",
        ],
    ),
    "deb": (
        {"vendor_packages_debs": {"loki": DEB}},
        ["vendor_packages_debs.loki names the file '/no/such.deb' with the sha256"],
    ),
    "tempo": ({"tempo_memory_max": "big"}, ["tempo_memory_max is 'big'"]),
    "grafana": (
        {"grafana_admin_password": "short", "grafana_prometheus_url": "here"},
        ["grafana_prometheus_url is 'here'", "grafana_admin_password is too short"],
    ),
    "alloy": ({"alloy_memory_max": "0"}, ["alloy_memory_max is '0'"]),
    # The typed argument_specs.yml.
    "balance": ({"nginx_balance": "random"}, ["value of nginx_balance must be one of: least_conn, ip_hash, got: random"]),
    "log_level": (
        {"ws_server_log_level": "loud"},
        ["value of ws_server_log_level must be one of: debug, info, warning, error, got: loud"],
    ),
    "ttl": ({"ws_server_room_ttl_s": "a week"}, ["argument 'ws_server_room_ttl_s' is of type str"]),
    "timeout": ({"ws_server_drain_timeout_s": "a while"}, ["argument 'ws_server_drain_timeout_s' is of type str"]),
    "exporters": (
        {"exporters_enabled": ["nodes"]},
        ["value of exporters_enabled must be one or more of: node, redis, postgres, nginx. Got no match for: nodes"],
    ),
}  # fmt: skip

# The checking role of variables that are not named after it.
STAGES = {
    "command_line": "inventory", "names": "names", "no_domain": "nginx", "api_clients": "nginx", "no_certificate": "nginx",
    "service": "ws_server", "jwks": "ws_server", "parts": "parts", "grafana_nowhere": "parts", "vendor": "loki", "deb": "loki",
    "balance": "nginx", "log_level": "ws_server", "ttl": "ws_server", "timeout": "ws_server",
    "keys": "ws_server", "fitting": "nginx", "other_key": "nginx", "other_domain": "nginx", "other_authority": "nginx",
    "api_public": "hosts", "api_private": "hosts", "pair": "hosts", "pair_public": "hosts", "two": "hosts",
    "two_named": "hosts", "inside": "hosts", "inside_too": "hosts", "without_redis": "hosts", "away": "hosts",
    "no_python": "hosts", "no_sudo": "hosts", "watched": "hosts", "watching": "hosts", "many_workers": "ports",
    "kept": "stores", "moved": "stores", "moved_to": "stores",
    "added": "stores", "added_to": "inventory", "added_to_away": "inventory",
}  # fmt: skip
STAGES |= {role: role for role in ROLES if role in REFUSED}

GOOD: dict[str, dict[str, Any]] = {
    "values": {
        "ws_server_instances": "2",
        "redis_port": "6380",
        "nginx_max_clients": "500",
        "ws_server_messages_per_s": 100000,
        "ws_server_archive_retention_days": 0,
        "ws_server_trace_ratio": 0.5,
        "ws_server_jwt_issuer": "https://id.example.org",
        "ws_server_auth_cookie": "session",
        "ws_server_otlp_endpoint": "http://[::1]:4318/v1/traces",
        "ws_server_default_join": ["lobby", "user:{sub}:*", "größe"],
        "ws_server_default_publish": [],
        "ws_server_api_key": "k" * 32,
        "ws_server_canary_s": 0,
        "ws_server_drain_timeout_s": 5.5,
        "ws_server_metrics_gates": ["sum(rate(ws_message_drops_total[1m])) < 1"],
        "ws_server_metrics_hold_s": 0,
        "ws_server_prometheus_url": "https://[2001:db8::1]:9090/prometheus",
        "ws_roll_serial": [1, "25%", 3],
        "ws_lock_break": False,
    },
    # An inventory without the group. Redis may use the exporter's port.
    "unobserved": {"redis_port": 9121},
}


# Facts that the preflights of other roles would set.
FOUND = {
    "redis_endpoint": {"address": "127.0.0.1", "port": 6379, "socket": "/redis", "unit": "redis-server.service"},
    "postgres_endpoint": {"address": "127.0.0.1", "port": 5432, "socket": "/postgres", "database": "ws", "user": "ws"},
    "ws_server_endpoints": [],
    "ws_server_api_endpoints": [],
}


def interpreter(directory: Path, name: str, command: str) -> dict[str, Any]:
    """A host whose Python runs under a command, so that one host of many sees another machine."""
    path = directory / name
    path.write_text(f'#!/bin/sh\nexec {command} {PYTHON} "$@"\n')
    path.chmod(0o755)
    return {"ansible_python_interpreter": str(path)}


def in_network(directory: Path, *addresses: str) -> dict[str, Any]:
    """A host with these addresses. The first one is the address of the default route."""
    script = "ip link add eth0 up type veth peer name eth1; ip link set eth1 up"
    for address in addresses:
        script += f"; ip address add {address}/24 dev eth0"
    script += f"; ip route add default via {addresses[0].rpartition('.')[0]}.1"
    return interpreter(directory, "in-" + "-".join(addresses), f"unshare --net sh -ec '{script}; exec \"$@\"' sh")


def with_a_worker(directory: Path) -> dict[str, Any]:
    """A host with a worker that runs, whose Redis is on the host and whose Postgres is at 192.0.2.9."""
    generation, link = directory / "opt/ws-server/generations/1.0-a", directory / "opt/ws-server/instances/80"
    generation.mkdir(parents=True)
    link.parent.mkdir()
    link.symlink_to("../generations/1.0-a")
    stores = ("WS_REDIS_URL=unix:///run/redis/redis-server.sock", "WS_POSTGRES_DSN=postgresql://app:hush@192.0.2.9/ws")
    (generation / "env").write_text("\n".join(stores))
    programs = directory / "programs"
    programs.mkdir()
    (programs / "systemctl").write_text("#!/bin/sh\nprintf 'LoadState=loaded\\nActiveState=active\\n'\n")
    (programs / "systemctl").chmod(0o755)
    script = f"mount --bind {directory}/opt /opt; export PATH={programs}:$PATH"
    return interpreter(directory, "with-a-worker", f"unshare --mount sh -ec '{script}; exec \"$@\"' sh")


def make_pair(directory: Path, name: str, domain: str) -> dict[str, str]:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        f"/CN={name}",
    ]
    names = ["-addext", f"subjectAltName=DNS:{domain}", "-keyout", key, "-out", certificate]
    subprocess.run([*request, *names], check=True, capture_output=True)
    return {
        "nginx_tls_mode": "files",
        "nginx_tls_certificate": str(certificate),
        "nginx_tls_certificate_key": str(key),
    }


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Fleets:
    directory = tmp_path_factory.mktemp("fleets")
    keys = directory / "jwks.json"
    keys.write_text("{}")
    keys.chmod(0o644)
    for parent in list(keys.parents)[:3]:
        parent.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": listener.getsockname()[1]}
    fitting, other = make_pair(directory, "fitting", "*.example.org"), make_pair(directory, "other", "chat.example.net")
    api = {"ws_server_api_clients": ["10.0.0.20", "10.1.0.0/24"]}
    public, private = in_network(directory, "203.0.113.5"), in_network(directory, "10.20.30.5")
    both = in_network(directory, "203.0.113.5", "10.0.0.5")
    at = {"ws_server_private_address": "10.0.0.5"}
    works = with_a_worker(directory)
    hosts: dict[str, dict[str, Any]] = {
        **{name: variables for name, (variables, _begins) in REFUSED.items()},
        **GOOD,
        "keys": {"ws_server_jwt_jwks": str(keys)},
        # The certificate is its own authority.
        "fitting": fitting | {"nginx_tls_ca": fitting["nginx_tls_certificate"]},
        "other_authority": fitting | {"nginx_tls_ca": other["nginx_tls_certificate"]},
        "other_key": fitting | {"nginx_tls_certificate_key": other["nginx_tls_certificate_key"]},
        "other_domain": other,
        "api_public": public | api,
        "api_private": private | api,
        # Fleets of two hosts, which are named after the first.
        "pair": both | at,
        "pair_public": public | {"fleet": "pair"},
        "two": both | at,
        "two_named": both | at | {"fleet": "two"},
        "inside": private,
        "inside_too": private | {"fleet": "inside"},
        "without_redis": private,
        "away": closed | {"fleet": "without_redis"},
        "no_python": {"ansible_python_interpreter": "/no/python3"},
        "no_sudo": {"ansible_become": True, "ansible_become_user": "nobody", "ansible_become_exe": "/bin/false"},
        "kept": works | {"ws_server_private_address": "192.0.2.9"},
        "moved": works,
        "moved_to": {"fleet": "moved"},
        # A run with --limit: the play of the stage has no host of this fleet but "added".
        "added": {},
        "added_to": works | {"fleet": "added"},
        "added_to_away": closed | {"fleet": "added"},
        "watched": private,
        "watching": closed | {"fleet": "watched"},
    }
    for name, stage in STAGES.items():
        if stage in ("ws_server", "sysctl", "exporters", "ports"):
            hosts[name] = FOUND | hosts[name]
    members = {
        "unobserved": {"ws_observability": []},
        "pair": {"ws_redis": ["pair_public"]},
        "two": {"ws_redis": ["two_named"]},
        "inside": {"ws_redis": ["inside_too"]},
        "without_redis": {"ws_redis": ["away"]},
        "watched": {"ws_observability": ["watching"]},
        "moved": {"ws_redis": ["moved_to"], "ws_postgres": ["moved_to"]},
        "added": {"ws_workers": ["added_to", "added_to_away", "added"]},
    }
    return Fleets(directory, hosts, members, STAGES)


@pytest.fixture(scope="module")
def occupied_network() -> Iterator[int]:
    """A process in a separate network, where it holds the port 9079."""
    serve = "import socket; keep = socket.create_server(('', 9079)); print(flush=True); input()"
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", PYTHON, "-c", serve]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline(), "the port is held"
        yield process.pid
        process.kill()


@pytest.fixture(scope="module")
def shared_machines(tmp_path_factory: pytest.TempPathFactory, occupied_network: int) -> Fleets:
    """The run over hosts with other programs."""
    directory = tmp_path_factory.mktemp("shared-machines")
    hosts: dict[str, dict[str, Any]] = {
        "user": FOUND | {"ws_server_user": "nobody"},
        "port": FOUND | interpreter(directory, "occupied", f"nsenter --target {occupied_network} --net"),
    }
    return Fleets(directory, hosts, {}, {"user": "ws_server", "port": "ports"}, machine=True)


def assert_told(fleets: Fleets, host: str, *begins: str) -> None:
    told = fleets.told[host]
    assert len(told) == len(begins), told
    assert not [begin for begin, sentence in zip(begins, told, strict=True) if not sentence.startswith(begin)], told


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_value(fleets: Fleets, name: str) -> None:
    _variables, begins = REFUSED[name]
    told = fleets.told[name]
    if "argument" in begins[0]:  # Ansible's own message continues here
        assert len(told) == 1
        assert begins[0] in told[0]
    else:
        assert_told(fleets, name, *begins)
    assert "hush" not in str(told)


@pytest.mark.parametrize("name", [*GOOD, "keys", "fitting", "kept"])
def test_good_values(fleets: Fleets, name: str) -> None:
    assert fleets.told[name] == []
    assert fleets.tasks[name] > (2 if name in STAGES else 30), "no host is skipped"


def test_nothing_is_touched(fleets: Fleets, shared_machines: Fleets) -> None:
    assert (fleets.changed, shared_machines.changed) == (0, 0)


def test_a_key_of_another_certificate(fleets: Fleets) -> None:
    assert_told(fleets, "other_key", "nginx_tls_certificate_key (")
    assert "other.key) is not the key of nginx_tls_certificate (" in fleets.told["other_key"][0]


def test_a_certificate_of_another_domain(fleets: Fleets) -> None:
    assert_told(fleets, "other_domain", "nginx_tls_certificate (")
    assert "is not for nginx_domain (ws.example.org), but for DNS:chat.example.net" in fleets.told["other_domain"][0]


def test_a_private_authority_that_has_not_issued_the_certificate(fleets: Fleets) -> None:
    assert_told(fleets, "other_authority", "nginx_tls_ca (")
    assert "other.pem) has not issued nginx_tls_certificate (" in fleets.told["other_authority"][0]
    assert "that clients trust" in fleets.told["other_authority"][0]


def test_the_server_api_is_refused_at_a_public_address(fleets: Fleets) -> None:
    """One host opens its API to backends on other hosts."""
    assert_told(
        fleets, "api_public", "api_public would serve the other hosts at 203.0.113.5, which is not private: give"
    )
    assert "ws_server_private_address" in fleets.told["api_public"][0]
    assert_told(fleets, "api_private")


def test_unencrypted_traffic_is_refused_at_a_public_address(fleets: Fleets) -> None:
    """One of several hosts has only a public address."""
    assert_told(
        fleets, "pair_public", "pair_public would serve the other hosts at 203.0.113.5, which is not private: give"
    )
    for host in ("two", "two_named", "inside", "inside_too"):
        assert_told(fleets, host)


def test_stores_that_would_be_left_behind(fleets: Fleets) -> None:
    assert_told(
        fleets,
        "moved",
        "The workers of moved use the Redis on moved, and moved_ws_redis of the inventory names moved_to. ",
        "The workers of moved use the Postgres on kept, and moved_ws_postgres of the inventory names moved_to. ",
    )
    assert "run the playbook move_store with -e ws_from=moved, or" in fleets.told["moved"][0]


def test_a_limited_run_asks_the_workers_of_the_other_hosts(fleets: Fleets) -> None:
    """Its only worker host is new, and so is its host of Redis and Postgres. One of the other hosts does not answer."""
    told = [sentence for sentence in fleets.told["added"] if sentence.startswith("The workers of ")]
    assert len(told) == 2, fleets.told["added"]
    assert told[0].startswith(
        "The workers of added_to use the Redis on added_to, and added_ws_redis of the inventory names added. "
    )
    assert told[1].startswith(
        "The workers of added_to use the Postgres on kept, and added_ws_postgres of the inventory names added. "
    )


def test_an_unreachable_redis_host(fleets: Fleets) -> None:
    assert_told(fleets, "away", "away of without_redis_ws_redis does not answer at 127.0.0.1: start it, or")
    assert "ansible_host" in fleets.told["away"][0]


def test_site_reports_an_unreachable_observer(fleets: Fleets) -> None:
    assert_told(fleets, "watching", "watching of watched_ws_observability does not answer at 127.0.0.1: start it, or")
    assert "ansible_host" in fleets.told["watching"][0]


def test_a_host_without_facts_is_refused(fleets: Fleets) -> None:
    """The run reports the host, and does not drop it and continue with the others."""
    for host, words in {
        "no_python": ["/no/python3", "Install python3 there"],
        "no_sudo": ["become", "the sudo password (--ask-become-pass)"],
    }.items():
        told = " ".join(fleets.told[host])  # Ansible's message may have several lines
        assert told.startswith(f"Ansible reaches {host} of {host}_ws_"), told
        assert told.count("cannot gather its facts") == 1
        assert not [word for word in words if word not in told], told


def test_an_existing_user_of_another_program_is_refused(shared_machines: Fleets) -> None:
    assert_told(shared_machines, "user", "user already has a user nobody, with the home ")
    assert "ws_server_user, such as wsapp" in shared_machines.told["user"][0]


def test_a_port_held_by_another_program_is_refused(shared_machines: Fleets) -> None:
    assert_told(shared_machines, "port", "On port another program holds a port that a service needs: 9079 is held by ")
    assert "python" in shared_machines.told["port"][0]
