# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Addresses of both families. tests/unit/plugins/filter/test_url_host.py tests them in URLs."""

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._addresses import (
    host_network,
    is_private,
    split_endpoint,
)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "127.0.0.1",
        "192.168.1.1",
        "169.254.3.3",
        "172.16.0.1",
        "172.31.9.9",
        "100.64.0.1",
        "fd00::1",
        "fc01::9",
        "::1",
    ],
)
def test_a_private_address(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize(
    "address",
    [
        "203.0.113.5",
        "172.32.0.1",
        "100.128.0.1",
        "11.0.0.1",
        "2001:db8::1",
        "2a01::1",
        "fe80::1",
        "",
        "host",
        "10.0.0.0/8",
    ],
)
def test_no_private_address(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize(
    ("endpoint", "parts"),
    [("10.0.0.1:8080", ("10.0.0.1", "8080")), ("[fd00::1]:8080", ("fd00::1", "8080"))],
)
def test_an_endpoint(endpoint: str, parts: tuple[str, str]) -> None:
    assert split_endpoint(endpoint) == parts


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1/32"),
        ("10.0.0.1/32", "10.0.0.1/32"),
        ("fd00::1", "fd00::1/128"),
        ("FD00:0::1/128", "fd00::1/128"),
    ],
)
def test_the_network_of_one_host(address: str, network: str) -> None:
    assert host_network(address) == network


@pytest.mark.parametrize("address", ["10.0.0.0/24", "fd00::/64", "host", "", "10.0.0.1.1"])
def test_no_network_of_one_host(address: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        host_network(address)
