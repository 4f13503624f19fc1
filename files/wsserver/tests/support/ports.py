# SPDX-License-Identifier: MIT
"""Ports for servers of tests, where several processes run tests on one machine."""

from __future__ import annotations

import socket
from random import SystemRandom

# Below the ports that Linux gives to clients, which may be taken at any time.
_PORTS = range(10_000, 32_000)
_chance = SystemRandom()
_claims: list[socket.socket] = []


def free_port(host: str = "127.0.0.1") -> int:
    """A port that no other caller on this machine gets while this process lives."""
    while True:
        port = _chance.choice(_PORTS)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0ws-test-port-{port}")  # Linux ends the claim with this process
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.bind((host, port))
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return port
