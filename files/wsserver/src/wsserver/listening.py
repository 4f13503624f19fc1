# SPDX-License-Identifier: MIT
"""The TCP sockets that a worker listens on."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address


def bind(address: IPv4Address | IPv6Address, port: int) -> socket.socket:
    """A socket of a worker's own. Raises OSError, which names the address."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((str(address), port))
    except OSError as exc:
        listening.close()
        raise OSError(exc.errno, f"cannot listen: {os.strerror(exc.errno or 0)}", f"{address} port {port}") from exc
    return listening
