# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Addresses of hosts, of both families: how to write them, and which are private. No I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

LOOPBACK = "127.0.0.1"

# Python calls more networks private, such as the networks for documentation. Link-local IPv6
# addresses are not among these: each needs an interface, so no service can listen at such an
# address.
_PRIVATE = [
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
]


def url_host(host: str) -> str:
    """Returns the host with the brackets that an IPv6 address needs in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def split_endpoint(endpoint: str) -> tuple[str, str]:
    """Returns the address, without brackets, and the port."""
    host, _colon, port = endpoint.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def default_address(facts: Mapping[str, Any]) -> str:
    """Returns the address of the default route, of IPv4 if the host has such a route, or nothing."""
    for family in ("default_ipv4", "default_ipv6"):
        address = (facts.get(family) or {}).get("address")
        if address:
            return str(address)
    return ""


def is_private(address: str) -> bool:
    """Returns whether only hosts of a private network reach the address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in _PRIVATE)


def host_network(address: str) -> str:
    """Returns the network of one address, as in fd00::1/128. Raises ValueError for others."""
    network = ipaddress.ip_network(address)
    if network.num_addresses != 1:
        raise ValueError(f"{address} has more than one address")
    return str(network)
