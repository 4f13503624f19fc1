# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The servers that are measured, each behind the same few methods."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.generator import Step
from bench.process import Cores, Service

HEARTBEAT_S = 25
SIGNING_KEY = "a secret of at least 32 characters"


class Place(NamedTuple):
    """Where servers run. `directory`: for their files and logs; the stores are real ones of this run's own."""

    cores: Cores
    directory: Path
    redis_url: str
    postgres_dsn: str


class Node(NamedTuple):
    """One process of a server under test, and the port that clients connect to."""

    service: Service
    port: int


class Peer(Protocol):
    """auth: what a handshake proves, in words; ping: what a heartbeat holds, and what to answer."""

    name: str
    auth: str
    ping: tuple[bytes, bytes]
    across_workers: str | None  # how two workers hear of each other's publishes, in words

    def version(self) -> str: ...

    def start(self, place: Place, workers: int = 1) -> list[Node]:
        """Start so many processes that serve the same rooms, with a heartbeat of HEARTBEAT_S."""

    def connect_steps(self, number: int, room: str) -> list[Step]:
        """What client `number` says until it is in, with its proof of who it is."""

    def join_steps(self, number: int, room: str) -> list[Step]:
        """What it says to join its room."""

    def publish(self, room: str, number: int) -> bytes:
        """One message from a member of the room."""


def command_output(*command: str) -> str:
    """What a program says, on either of its outputs."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).strip()
