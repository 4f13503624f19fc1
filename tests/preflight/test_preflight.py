# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""site.yml answers a bad inventory with one sentence, before anything is touched.

Run are the parts that site.yml begins with, as to read all of it takes as long again. The inventory's hosts are this machine,
and every run is a check run: should a preflight let something pass, nothing comes of it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE_BEGINS_WITH = ["parts/checks.yml", "parts/observability_checks.yml"]
PREFLIGHT = ["Check what is asked for", "Check the inventory", "Check the hosts", "Check what observes the fleet"]
# Whose files, users and ports this machine has depends on who uses it; what comes of them is tested on its own.
WITHOUT_THE_MACHINE = ["--skip-tags", "foreign,ports"]
# A tag that nothing has leaves what is always run.
PREFLIGHT_ALONE = ["--tags", "preflight"]
GROUPS = ["ws_edge", "ws_workers", "ws_redis", "ws_postgres"]
OBSERVERS = "ws_observability"

LOCAL = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}


@dataclass
class Result:
    returncode: int
    plays: list[str]
    messages: set[str]
    changed: int


Site = Callable[..., Result]


def inventory(hosts: dict[str, dict[str, Any]] | None = None, **groups: list[str]) -> dict[str, Any]:
    """One host in every group, unless told otherwise."""
    hosts = hosts or {"one": LOCAL}
    children = {name: {"hosts": {host: {} for host in groups.get(name, ["one"])}} for name in [*GROUPS, OBSERVERS]}
    return {"all": {"vars": {"nginx_domain": "ws.example.org"}, "hosts": hosts, "children": children}}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Runs a playbook against an inventory and tells what came of it."""

    settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}

    def run(
        contents: dict[str, Any],
        *arguments: str,
        under: list[str] | None = None,
        playbook: str | None = None,
        machine: bool = False,
    ) -> Result:
        path = tmp_path / "inventory.json"
        path.write_text(json.dumps(contents))
        names = [playbook] if playbook else SITE_BEGINS_WITH
        plays = tmp_path / "plays.json"
        plays.write_text(
            json.dumps([{"ansible.builtin.import_playbook": str(ROOT / "playbooks" / name)} for name in names])
        )
        program = Path(sys.executable).with_name("ansible-playbook")
        process = subprocess.run(
            [
                *(under or []),
                program,
                "--check",
                "-i",
                path,
                plays,
                *([] if machine else WITHOUT_THE_MACHINE),
                *arguments,
            ],
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        report = json.loads(process.stdout[process.stdout.index("{\n") :])
        # What fails there is told by a later task.
        tasks = [task for play in report["plays"] for task in play["tasks"] if task["task"]["name"] != "Gather facts"]
        results = [result for task in tasks for result in task["hosts"].values()]
        return Result(
            returncode=process.returncode,
            plays=[play["play"]["name"] for play in report["plays"] if play["tasks"]],
            messages={
                item["msg"].strip()
                for result in results
                if result.get("failed")
                for item in result.get("results", [result])
                if item.get("failed")
            },
            changed=sum(host["changed"] for host in report["stats"].values()),
        )

    return run


def assert_answered(result: Result, *words: str) -> None:
    """Nothing was touched, and one sentence has all the words."""
    assert result.returncode != 0
    assert set(result.plays) <= set(PREFLIGHT)
    assert result.changed == 0
    assert len(result.messages) == 1, result.messages
    (message,) = result.messages
    assert not [word for word in words if word not in message], message


def test_site_begins_with_the_checks() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
    assert [play.get("ansible.builtin.import_playbook") for play in plays[:2]] == SITE_BEGINS_WITH


def test_a_good_inventory_passes(site: Site) -> None:
    result = site(inventory(), *PREFLIGHT_ALONE, playbook="site.yml")
    assert (result.returncode, result.messages, result.changed) == (0, set(), 0)


def test_a_missing_domain(site: Site) -> None:
    contents = inventory()
    del contents["all"]["vars"]["nginx_domain"]
    assert_answered(site(contents), "nginx_domain is not set", "nginx_domain: ws.example.org")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ws_server_instances": 0}, ["ws_server_instances is 0", "1 to 20"]),
        ({"nginx_domain": "https://ws.example.org/"}, ["nginx_domain", "'https://ws.example.org/'", "without scheme"]),
        ({"nginx_max_clients": 0}, ["nginx_max_clients is 0", "1 to 500000"]),
        ({"nginx_worker_shutdown_timeout": "soon"}, ["nginx_worker_shutdown_timeout is 'soon'", "4h"]),
        ({"nginx_balance": "random"}, ["nginx_balance must be one of: least_conn, ip_hash"]),
        ({"nginx_tls_days": 1}, ["nginx_tls_days is 1", "6 to 365"]),
        ({"nginx_tls_mode": "files"}, ["nginx_tls_certificate", "paths of a certificate"]),
        ({"ws_server_room_ttl_s": "a week"}, ["ws_server_room_ttl_s"]),
        ({"ws_server_log_level": "loud"}, ["ws_server_log_level must be one of: debug, info, warning, error"]),
        ({"ws_server_keep": 0}, ["ws_server_keep is 0", "1 or more"]),
        ({"ws_server_ready_timeout": 0}, ["ws_server_ready_timeout is 0", "a number of seconds from 1 to 3600"]),
        (
            {"ws_server_drain_timeout_s": 3601},
            ["ws_server_drain_timeout_s is 3601", "a number of seconds from 1 to 3600"],
        ),
        ({"ws_server_drain_timeout_s": "a while"}, ["ws_server_drain_timeout_s", "float"]),
        (
            {"ws_server_drain_timeout_s": 15, "ws_server_drain_window_s": 20},
            [
                "ws_server_drain_timeout_s is 15, and clients are sent away over 20 s",
                "ws_server_drain_window_s to less",
            ],
        ),
        ({"ws_server_drain_timeout_s": 5}, ["ws_server_drain_timeout_s is 5, and clients are sent away over 5 s"]),
        ({"ws_server_canary_s": -1}, ["ws_server_canary_s is -1", "seconds from 0 to 3600"]),
        ({"ws_server_metrics_hold_s": -1}, ["ws_server_metrics_hold_s is -1", "seconds from 0 to 3600"]),
        (
            {"ws_server_metrics_gates": ["up == 1", " "]},
            ["ws_server_metrics_gates has an empty expression", "like sum(rate(ws_message_drops_total[1m])) < 1"],
        ),
        (
            {"ws_server_metrics_gates": ["up == 1"], "ws_server_prometheus_url": "127.0.0.1:9090"},
            [
                "ws_server_prometheus_url is '127.0.0.1:9090'",
                "where one reaches Prometheus",
                "like http://127.0.0.1:9090",
            ],
        ),
        ({"ws_roll_serial": []}, ["ws_roll_serial is []", "a number or a percentage"]),
        ({"ws_roll_serial": [1, "250%"]}, ["ws_roll_serial is [1, '250%']", """-e '{"ws_roll_serial": [1, "25%"]}'"""]),
        ({"ws_lock_break": "the door"}, ["ws_lock_break is the door", "or leave it out"]),
        ({"ws_server_jwt_jwks": "/no/jwks.json"}, ["ws_server_jwt_jwks is /no/jwks.json", "no file on one"]),
        (
            {"ws_server_api_clients": ["backend.example.org"], "ws_server_private_address": "10.0.0.5"},
            ["ws_server_api_clients", "'backend.example.org'", "10.1.0.0/24"],
        ),
        ({"prometheus_scrape_interval_s": 90}, ["prometheus_scrape_interval_s is 90", "5 to 60"]),
        ({"prometheus_retention_size": "2G"}, ["prometheus_retention_size is '2G'", "like 2GB"]),
        ({"prometheus_listen_address": "203.0.113.9"}, ["prometheus_listen_address is '203.0.113.9'", "127.0.0.1"]),
        ({"prometheus_webhooks": ["ops"]}, ["prometheus_webhooks", "like http://127.0.0.1:8000/alerts"]),
        ({"prometheus_mail_to": ["ops@example.org"]}, ["prometheus_mail_smarthost ''", "like mail.example.org:587"]),
        ({"ws_observability_parts": ["jaeger"]}, ["ws_observability_parts is ['jaeger']", "grafana, loki and tempo"]),
        ({"loki_retention_days": 0}, ["loki_retention_days is 0", "1 to 3650"]),
        ({"tempo_memory_max": "big"}, ["tempo_memory_max is 'big'", "like 384M"]),
        ({"grafana_admin_password": "short"}, ["grafana_admin_password is too short"]),
        ({"grafana_prometheus_url": "here"}, ["grafana_prometheus_url is 'here'", "like http://127.0.0.1:3000"]),
        ({"alloy_memory_max": "0"}, ["alloy_memory_max is '0'", "like 256M"]),
        ({"vendor_packages_key_fingerprints": ["b53a"]}, ["vendor_packages_key_fingerprints is ['b53a']", "40 digits"]),
        ({"vendor_packages_key": "/no/such/key"}, ["vendor_packages_key is '/no/such/key'", "a URL"]),
        (
            {"vendor_packages_repository": "mirror"},
            ["vendor_packages_repository is 'mirror'", "https://apt.grafana.com"],
        ),
        (
            {"vendor_packages_debs": {"loki": {"file": "/no/such.deb", "sha256": "0" * 64}}},
            ["vendor_packages_debs.loki", "'/no/such.deb'", "no such file"],
        ),
        ({"redis_port": 3100}, ["On one two services would have the port 3100", "redis_port"]),
        ({"exporters_enabled": ["nodes"]}, ["exporters_enabled", "node, redis, postgres, nginx", "nodes"]),
        ({"redis_port": 9121}, ["On one two services would have the port 9121", "redis_port"]),
        (
            {"ws_server_instances": 11},
            ["On one two services would have the port 9090", "host without workers", "10 or"],
        ),
        ({"redis_port": 8081}, ["On one two services would have the port 8081", "redis_port"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_value(site: Site, variables: dict[str, Any], words: list[str]) -> None:
    contents = inventory()
    contents["all"]["vars"] |= variables
    assert_answered(site(contents), *words)


@pytest.mark.parametrize(
    ("asked", "workers", "words"),
    [
        ("ws_action=out", ["one", "two"], ["ws_host is not set", "one, two"]),
        ("ws_host=three ws_action=out", ["one", "two"], ["ws_host is 'three', which is no worker host", "one, two"]),
        ("ws_host=two", ["one", "two"], ["ws_action is not set", "-e ws_action=reboot"]),
        ("ws_host=two ws_action=off", ["one", "two"], ["ws_action is 'off'"]),
        ("ws_host=one ws_action=out", ["one"], ["one is the only worker host", "add a worker host first"]),
        (
            "ws_host=one ws_action=reboot",
            ["one", "two"],
            ["it has Redis and Postgres and the only edge", "-e ws_even_so=true"],
        ),
    ],
)
def test_maintenance_of_what_or_how(site: Site, asked: str, workers: list[str], words: list[str]) -> None:
    contents = inventory({"one": LOCAL, "two": LOCAL}, ws_workers=workers)
    assert_answered(site(contents, "--extra-vars", asked, playbook="host_maintenance.yml"), *words)


def test_bad_settings_of_the_service_are_told_all_at_once(site: Site) -> None:
    contents = inventory()
    contents["all"]["vars"] |= {
        "ws_server_messages_per_s": 0,
        "ws_server_trace_ratio": 1.5,
        "ws_server_drain_window_s": 21,
        "ws_server_jwt_jwks": "jwks.json",
        "ws_server_jwt_audience": 'a "chat"',
        "ws_server_auth_cookie": "a cookie",
        "ws_server_otlp_endpoint": "127.0.0.1:4318",
        "ws_server_default_join": ["lobby", "a,b"],
        "ws_server_durable_rooms": ["", "r"],
        "ws_server_api_key": "secret",
        "ws_server_jwt_secret": "s" * 31 + "'",
    }
    result = site(contents)
    assert_answered(
        result,
        "ws_server_messages_per_s is 0: set it to a number from 1 to 100000, or leave it out",
        "ws_server_trace_ratio is 1.5: set it to a number from 0 to 1",
        "ws_server_drain_window_s is 21: set it to a number from 0 to 20",
        "ws_server_jwt_jwks is 'jwks.json': set it to the path of a JWKS file on the host, or its URL",
        "ws_server_jwt_audience is 'a \"chat\"': set it to the aud",
        "ws_server_auth_cookie is 'a cookie': set it to the cookie's name, in letters, digits, _ and -",
        "ws_server_otlp_endpoint is '127.0.0.1:4318': set it to the URL of an OTLP collector, like http://127.0.0.1:4318",
        "ws_server_default_join has 'a,b': set it to a list of rooms or patterns, without spaces, commas",
        "ws_server_durable_rooms has '': set it to a list of rooms or patterns",
        "ws_server_api_key has 6 characters: give at least 32",
        "ws_server_jwt_secret has a character that a settings file cannot hold",
    )
    (message,) = result.messages
    assert len(message.splitlines()) == 11
    assert "sss" not in message
    assert "'secret'" not in message


def test_good_values(site: Site, tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text("{}")
    keys.chmod(0o644)
    contents = inventory()
    contents["all"]["vars"] |= {
        "ws_server_messages_per_s": 100000,
        "ws_server_archive_retention_days": 0,
        "ws_server_trace_ratio": 0.5,
        "ws_server_jwt_jwks": str(keys),
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
    }
    result = site(contents, *PREFLIGHT_ALONE)
    assert (result.returncode, result.messages, result.changed) == (0, set(), 0)


def test_a_server_api_for_a_whole_network(site: Site) -> None:
    """The playbook sees to the addresses; whoever uses the role alone, or overrides it, is told."""
    for address in ("10.0.0.5", "0.0.0.0"):
        result = site(inventory(), "--extra-vars", f"ws_server_api_listen_address={address}")
        assert_answered(result, f"ws_server_api_listen_address is '{address}'", "ws_server_api_clients")


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_without_hosts(site: Site, group: str) -> None:
    assert_answered(site(inventory(**{group: []})), f"no host in {group}:", f"{group}_group")


def test_a_fleet_that_nobody_observes(site: Site) -> None:
    """As all fleets were before there was the group."""
    contents = inventory(ws_observability=[])
    result = site(contents, *PREFLIGHT_ALONE)
    assert (result.returncode, result.messages, result.changed) == (0, set(), 0)
    del contents["all"]["children"][OBSERVERS]
    contents["all"]["vars"]["redis_port"] = 9121
    result = site(contents, *PREFLIGHT_ALONE)
    assert (result.returncode, result.messages, result.changed) == (0, set(), 0)


def test_an_inventory_without_hosts(site: Site) -> None:
    assert_answered(site({}), "no host in ws_edge, ws_workers, ws_redis, ws_postgres:")


def test_several_redis_hosts(site: Site) -> None:
    contents = inventory({"one": LOCAL, "two": LOCAL}, ws_redis=["one", "two"])
    assert_answered(site(contents), "several hosts in ws_redis:")


def test_an_unreachable_observer_is_told_by_site_and_keeps_nobody_from_a_rollback(site: Site) -> None:
    network = """
        ip link set lo up && ip link add eth0 up type veth peer name eth1 && ip link set eth1 up &&
        ip address add 10.20.30.5/24 dev eth0 && ip route add default via 10.20.30.1"""
    under = ["unshare", "--net", "sh", "-c", f'{network} && exec "$@"', "sh"]
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    contents = inventory({"one": LOCAL, "away": away}, ws_observability=["away"])
    told = site(contents, under=under)
    assert_answered(told, "away of ws_observability does not answer at 127.0.0.1", "ansible_host")
    result = site(contents, *PREFLIGHT_ALONE, under=under, playbook="rollback.yml")
    assert (result.returncode, result.messages, result.changed) == (0, set(), 0)


def test_several_observers(site: Site) -> None:
    contents = inventory({"one": LOCAL, "two": LOCAL}, ws_observability=["one", "two"])
    assert_answered(site(contents), "several hosts in ws_observability:")


def test_a_limit_that_leaves_hosts_out(site: Site) -> None:
    contents = inventory({"one": LOCAL, "two": LOCAL}, ws_redis=["two"])
    assert_answered(site(contents, "--limit", "one"), "leaves out two", "without --limit")


def test_an_unreachable_redis_host(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed_port = listener.getsockname()[1]
    away = {"ansible_host": "127.0.0.1", "ansible_port": closed_port}
    result = site(inventory({"one": LOCAL, "away": away}, ws_redis=["away"]))
    assert_answered(result, "away of ws_redis does not answer at 127.0.0.1", "ansible_host")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ansible_python_interpreter": "/no/python3"}, ["/no/python3", "Install python3 there"]),
        (
            {"ansible_become": True, "ansible_become_user": "nobody", "ansible_become_exe": "/bin/false"},
            ["become", "the sudo password (--ask-become-pass)"],
        ),
    ],
    ids=["no Python", "no sudo"],
)
def test_a_host_that_ansible_cannot_look_at(site: Site, variables: dict[str, Any], words: list[str]) -> None:
    """It is told, and not dropped while the run goes on with the others."""
    result = site(inventory({"one": LOCAL, "two": LOCAL | variables}, ws_redis=["two"]))
    assert_answered(result, "Ansible reaches two of ws_redis, and cannot look at it", *words)


def test_a_user_of_the_service_that_is_another_programs(site: Site) -> None:
    contents = inventory()
    contents["all"]["vars"]["ws_server_user"] = "nobody"
    skip = ["--skip-tags", "ports"]
    variables = {"nginx_take_over": True, "redis_take_over": True, "postgres_take_over": True}
    contents["all"]["vars"] |= variables
    assert_answered(
        site(contents, *skip, machine=True), "one has a user nobody already", "ws_server_user, such as wsapp"
    )


def test_a_port_that_another_program_has(site: Site) -> None:
    serve = "import socket, time; keep = socket.create_server(('', 9079)); time.sleep(600)"
    start = f'ip link set lo up && {{ {sys.executable} -c "{serve}" & }} && trap "kill $!" EXIT && "$@"'
    under = ["unshare", "--net", "sh", "-c", start, "sh"]
    result = site(inventory(), "--skip-tags", "foreign", under=under, machine=True)
    assert_answered(result, "On one another program has a port that a service needs: 9079 is held by", "python")


@pytest.mark.parametrize(("address", "refused"), [("203.0.113.5", True), ("10.20.30.5", False)])
def test_the_server_api_at_no_public_address(site: Site, address: str, refused: bool) -> None:
    """One host that lets backends on others in."""
    network = (
        f"ip link add eth0 up type veth peer name eth1 && ip link set eth1 up && ip address add {address}/24 dev eth0"
    )
    gateway = address.rpartition(".")[0] + ".1"
    under = ["unshare", "--net", "sh", "-c", f'{network} && ip route add default via {gateway} && exec "$@"', "sh"]
    contents = inventory()
    contents["all"]["vars"]["ws_server_api_clients"] = ["10.0.0.20", "10.1.0.0/24"]
    result = site(contents, *PREFLIGHT_ALONE, under=under)
    if refused:
        assert_answered(result, f"one would serve the other hosts at {address}", "ws_server_private_address")
    else:
        assert (result.returncode, result.messages) == (0, set())


@pytest.mark.parametrize(("address", "refused"), [("203.0.113.5", True), ("10.20.30.5", False)])
def test_nothing_unencrypted_at_a_public_address(site: Site, address: str, refused: bool) -> None:
    """A host of several, whose default route is the Internet's: in a network of its own, made for this run."""
    network = f"""
        ip link add eth0 up type veth peer name eth1 && ip link set eth1 up &&
        ip address add {address}/24 dev eth0 && ip address add 10.0.0.5/24 dev eth0"""
    gateway = address.rpartition(".")[0] + ".1"
    under = ["unshare", "--net", "sh", "-c", f'{network} && ip route add default via {gateway} && exec "$@"', "sh"]
    several = inventory({"one": dict(LOCAL), "two": dict(LOCAL)}, ws_redis=["two"])
    if refused:
        hosts = several["all"]["hosts"]
        hosts["one"]["ws_server_private_address"] = "10.0.0.5"
        assert_answered(
            site(several, under=under), f"two would serve the other hosts at {address}", "ws_server_private_address"
        )
        hosts["two"]["ws_server_private_address"] = "10.0.0.5"  # one machine
    passed = site(several, *PREFLIGHT_ALONE, under=under)
    assert (passed.returncode, passed.messages) == (0, set())


@pytest.fixture
def pair(tmp_path: Path) -> Callable[[str, str], dict[str, str]]:
    """Makes a certificate and a key, and gives them as the variables of mode files."""

    def make(name: str, domain: str) -> dict[str, str]:
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"]
        names = f"subjectAltName=DNS:{domain}"
        subprocess.run(
            [*request, "-addext", names, "-keyout", key, "-out", certificate], check=True, capture_output=True
        )
        return {
            "nginx_tls_mode": "files",
            "nginx_tls_certificate": str(certificate),
            "nginx_tls_certificate_key": str(key),
        }

    return make


def test_a_key_of_another_certificate(site: Site, pair: Callable[[str, str], dict[str, str]]) -> None:
    contents = inventory()
    other = pair("other", "ws.example.org")["nginx_tls_certificate_key"]
    contents["all"]["vars"] |= pair("this", "ws.example.org") | {"nginx_tls_certificate_key": other}
    assert_answered(site(contents), f"nginx_tls_certificate_key ({other}) is not the key of nginx_tls_certificate")


def test_a_certificate_of_another_domain(site: Site, pair: Callable[[str, str], dict[str, str]]) -> None:
    contents = inventory()
    contents["all"]["vars"] |= pair("this", "chat.example.net")
    assert_answered(site(contents), "not for nginx_domain (ws.example.org), but for DNS:chat.example.net")


def test_a_private_authority_that_has_not_issued_the_certificate(
    site: Site, pair: Callable[[str, str], dict[str, str]]
) -> None:
    contents = inventory()
    other = pair("other", "ca.example.org")["nginx_tls_certificate"]
    contents["all"]["vars"] |= pair("this", "ws.example.org") | {"nginx_tls_ca": other}
    assert_answered(
        site(contents), f"nginx_tls_ca ({other}) has not issued nginx_tls_certificate", "that clients trust"
    )


def test_a_fitting_pair(site: Site, pair: Callable[[str, str], dict[str, str]]) -> None:
    contents = inventory()
    this = pair("this", "*.example.org")
    contents["all"]["vars"] |= this | {"nginx_tls_ca": this["nginx_tls_certificate"]}  # it is its own authority
    result = site(contents, *PREFLIGHT_ALONE)
    assert (result.returncode, result.messages, result.changed) == (0, set(), 0)
