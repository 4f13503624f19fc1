# SPDX-License-Identifier: MIT
"""The TCP sockets that a worker listens on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

# Of each accepted connection, in bytes; the kernel doubles it. By default this buffer grows to
# megabytes, and a client that does not read would show only when it is full.
_SEND_BUFFER = 131072


def bind_all(addresses: Iterable[Address], port: int) -> list[socket.socket]:
    """Bind a socket to each address. Raises OSError, which names the address."""
    bound: list[socket.socket] = []
    try:
        for address in addresses:
            bound.append(_bind(address, port))
    except OSError:
        for listening in bound:
            listening.close()
        raise
    return bound


def words(addresses: Iterable[Address]) -> str:
    """The addresses as in the setting."""
    return ",".join(map(str, addresses))


def _bind(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    try:
        listening.bind((str(address), port))
    except OSError as exc:
        listening.close()
        raise OSError(exc.errno, f"cannot listen: {os.strerror(exc.errno or 0)}", f"{address} port {port}") from exc
    return listening
