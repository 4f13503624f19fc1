# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The text that the roles write for an address of each family, and the default address."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
import yaml
from program import ROOT

# Ansible's own: an attribute of an undefined value is undefined.
ENVIRONMENT = jinja2.Environment(undefined=jinja2.ChainableUndefined, trim_blocks=True)
ENVIRONMENT.filters |= {"bool": bool, "comment": str}


def lines(role: str, template: str, **variables: Any) -> list[str]:
    text = (ROOT / "roles" / role / "templates" / template).read_text()
    return ENVIRONMENT.from_string(text).render(variables).splitlines()


def test_postgres_lets_in_one_address_of_each_family() -> None:
    written = lines(
        "postgres",
        "pg_hba_lines.j2",
        postgres_database="ws",
        postgres_user="app",
        postgres_client_addresses=["10.0.0.2", "10.0.0.3/32", "fd00::2", "fd00::3/128"],
    )
    networks = [line.split()[3] for line in written if line.startswith("host ")]
    assert networks == ["10.0.0.2/32", "10.0.0.3/32", "fd00::2/128", "fd00::3/128"]


@pytest.mark.parametrize(
    ("listening", "private", "adds"),
    [
        ("localhost", "10.0.0.1", True),
        ("localhost,10.0.0.1", "10.0.0.1", False),
        ("0.0.0.0", "10.0.0.1", False),
        ("0.0.0.0", "fd00::1", True),
        ("::", "fd00::1", False),
        ("::", "10.0.0.1", True),
        ("*", "fd00::1", False),
        ("localhost, fd00::1", "fd00::1", False),
    ],
)
def test_postgres_adds_an_address_that_its_settings_do_not_have(listening: str, private: str, adds: bool) -> None:
    variables = yaml.safe_load((ROOT / "roles/postgres/vars/main.yml").read_text())
    environment = ENVIRONMENT.overlay()
    environment.filters["map"] = lambda items, _trim: [item.strip() for item in items]
    environment.filters["intersect"] = lambda items, others: [item for item in items if item in others]
    written = environment.from_string(variables["_postgres_adds_address"]).render(
        postgres_private_address=private, __postgres_found={"clusters": [{"listen_addresses": listening}]}
    )
    assert written == str(adds)


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_redis_listens_there(address: str) -> None:
    assert f"bind 127.0.0.1 {address}" in lines("redis", "redis.conf.j2", redis_private_address=address)


@pytest.mark.parametrize("role", ["redis", "postgres"])
@pytest.mark.parametrize(
    ("facts", "address"),
    [
        ({"default_ipv4": {"address": "10.0.0.1"}, "default_ipv6": {"address": "fd00::1"}}, "10.0.0.1"),
        ({"default_ipv4": {}, "default_ipv6": {"address": "fd00::1"}}, "fd00::1"),
        ({"default_ipv4": {}, "default_ipv6": {}}, ""),
        ({}, ""),
    ],
)
def test_the_address_of_the_default_route(role: str, facts: dict[str, Any], address: str) -> None:
    defaults = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text())
    template = ENVIRONMENT.from_string(defaults[f"{role}_private_address"])
    assert template.render(ansible_facts=facts) == address


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_the_forwarder_of_redis_gets_an_address_without_brackets(address: str) -> None:
    """systemd-socket-proxyd cuts at the last colon and resolves the rest."""
    url = yaml.safe_load((ROOT / "roles/redis/vars/main.yml").read_text())["_redis_target_url"]
    assert ENVIRONMENT.from_string(url).render(_redis_target={"address": address, "port": 6379}) == f"{address}:6379"
