# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""site.yml answers a bad inventory with one sentence, before anything is touched.

The inventory's hosts are this machine, and every run is a check run: should a preflight let something pass, nothing comes of it.
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

ROOT = Path(__file__).resolve().parents[2]
PREFLIGHT = ["Check the inventory", "Check the hosts"]
# A tag that nothing has leaves what is always run.
PREFLIGHT_ALONE = ["--tags", "preflight"]
GROUPS = ["ws_edge", "ws_workers", "ws_redis", "ws_postgres"]

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
    children = {name: {"hosts": {host: {} for host in groups.get(name, ["one"])}} for name in GROUPS}
    return {"all": {"vars": {"nginx_domain": "ws.example.org"}, "hosts": hosts, "children": children}}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Runs site.yml against an inventory and tells what came of it."""

    settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}

    def run(contents: dict[str, Any], *arguments: str, under: list[str] | None = None) -> Result:
        path = tmp_path / "inventory.json"
        path.write_text(json.dumps(contents))
        playbook = Path(sys.executable).with_name("ansible-playbook")
        process = subprocess.run(
            [*(under or []), playbook, "--check", "-i", path, ROOT / "playbooks" / "site.yml", *arguments],
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        report = json.loads(process.stdout[process.stdout.index("{\n") :])
        results = [result for play in report["plays"] for task in play["tasks"] for result in task["hosts"].values()]
        return Result(
            returncode=process.returncode,
            plays=[play["play"]["name"] for play in report["plays"] if play["tasks"]],
            messages={result["msg"].strip() for result in results if result.get("failed")},
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


def test_a_good_inventory_passes(site: Site) -> None:
    result = site(inventory(), *PREFLIGHT_ALONE)
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
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_value(site: Site, variables: dict[str, Any], words: list[str]) -> None:
    contents = inventory()
    contents["all"]["vars"] |= variables
    assert_answered(site(contents), *words)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_without_hosts(site: Site, group: str) -> None:
    assert_answered(site(inventory(**{group: []})), f"no host in {group}:", f"{group}_group")


def test_an_inventory_without_hosts(site: Site) -> None:
    assert_answered(site({}), "no host in ws_edge, ws_workers, ws_redis, ws_postgres:")


def test_several_redis_hosts(site: Site) -> None:
    contents = inventory({"one": LOCAL, "two": LOCAL}, ws_redis=["one", "two"])
    assert_answered(site(contents), "several hosts in ws_redis:")


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
    ("os_release", "words"),
    [
        ('NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\n', "one runs Ubuntu 24.04"),
        ('NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="11"\n', "one runs Debian 11"),
    ],
    ids=["Ubuntu 24.04", "Debian 11"],
)
def test_an_unsupported_distribution(site: Site, tmp_path: Path, os_release: str, words: str) -> None:
    (tmp_path / "os-release").write_text(os_release)
    (tmp_path / "debian_version").write_text("11.9\n")
    mount = 'mount --bind "$0/os-release" "$(realpath /etc/os-release)" && mount --bind "$0/debian_version" /etc/debian_version'
    result = site(inventory(), under=["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', str(tmp_path)])
    assert_answered(result, words, "Debian 12 or 13")


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
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]
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


def test_a_fitting_pair(site: Site, pair: Callable[[str, str], dict[str, str]]) -> None:
    contents = inventory()
    contents["all"]["vars"] |= pair("this", "*.example.org")
    result = site(contents, *PREFLIGHT_ALONE)
    assert (result.returncode, result.messages, result.changed) == (0, set(), 0)
