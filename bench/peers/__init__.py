# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The servers under test, each behind the same few methods."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.generator import Step
from bench.process import Cores, Service

HEARTBEAT_S = 25
SIGNING_KEY = "a secret of at least 32 characters"


class Place(NamedTuple):
    """The place of servers: a `directory` for files and logs, and the run's own real stores."""

    cores: Cores
    directory: Path
    redis_url: str
    postgres_dsn: str


class Node(NamedTuple):
    """One process of a server under test, the port that clients connect to, and that of its API."""

    service: Service
    port: int
    api_port: int = 0


class Peer(Protocol):
    """A server. `auth` describes a handshake's proof; `ping` is a heartbeat and its answer."""

    name: str
    auth: str
    ping: tuple[bytes, bytes]
    across_workers: str | None  # how two workers exchange publishes, in words

    def version(self) -> str: ...

    def start(self, place: Place, workers: int = 1) -> list[Node]:
        """Start processes that serve the same rooms, with a heartbeat of HEARTBEAT_S."""

    def connect_steps(self, number: int, room: str) -> list[Step]:
        """The steps of client `number` until it is connected, with its credential."""

    def join_steps(self, number: int, room: str) -> list[Step]:
        """The steps to join the client's room."""

    def publish(self, room: str, number: int) -> bytes:
        """One message from a member of the room."""


def command_output(*command: str) -> str:
    """A program's standard output and standard error."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).strip()
