# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""One server under test with its clients, and the cost of a piece of work."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from bench.generator import BenchError, Client, Generator
from bench.peers import Node, Peer, Place
from bench.process import Tree
from bench.stores import Stores

_T = TypeVar("_T")

# Work of a server after the last delivery still belongs to that delivery.
_AFTERMATH_S = 0.03
_NUMBERS = itertools.count(1)


class Cost(NamedTuple):
    """Seconds of CPU of the server, of Redis, of Postgres and of the load, and the seconds that
    passed.
    """

    server: float
    redis: float
    postgres: float
    load: float
    wall: float


class Swarm:
    """A server's processes, and clients in rooms spread over them."""

    def __init__(self, generator: Generator, peer: Peer, place: Place, stores: Stores, workers: int = 1) -> None:
        self.peer = peer
        self.clients: list[Client] = []
        self.nodes: list[Node] = peer.start(place, workers)
        self._generator = generator
        self._stores = stores
        self._published: Counter[str] = Counter()

    @property
    def processes(self) -> list[Tree]:
        return [node.service for node in self.nodes]

    def rss_kib(self) -> int:
        return sum(process.rss_kib() for process in self.processes)

    def cost_of(self, work: Callable[..., _T], *arguments: Any) -> tuple[Cost, _T]:
        """Return the cost and the result of `work(*arguments)`."""
        stores = self._stores

        def readings() -> tuple[float, ...]:
            server = sum(process.cpu_s() for process in self.processes)
            return server, stores.redis.cpu_s(), stores.postgres.cpu_s(), time.process_time(), time.perf_counter()

        before = readings()
        result = work(*arguments)
        self._generator.read_for(_AFTERMATH_S)
        after = readings()
        return Cost(*(late - early for early, late in zip(before, after, strict=True))), result

    # Clients.

    def connect(self, rooms: Sequence[str], node: int = 0) -> list[Client]:
        """Connect a client for each of `rooms`, which has not joined its room yet."""
        peer = self.peer
        port = self.nodes[node].port
        new = self._generator.connect(peer.name, port, rooms, peer.connect_steps, peer.ping, first=len(self.clients))
        self.clients += new
        return new

    def join(self, clients: Sequence[Client]) -> None:
        self._generator.converse(clients, lambda client: self.peer.join_steps(client.number, client.room))

    # Messages.

    def publish(self, publishers: Sequence[Client], burst: int) -> list[int]:
        """Publish `burst` messages by each of these clients at once, and return their numbers."""
        numbers = []
        for publisher in publishers:
            burst_numbers = [next(_NUMBERS) for _message in range(burst)]
            numbers += burst_numbers
            frames = (self.peer.publish(publisher.room, number) for number in burst_numbers)
            self._published[publisher.room] += burst
            self._generator.send(publisher, b"".join(frames))
        return numbers

    def deliver(self, publishers: Sequence[Client], members: int, burst: int) -> None:
        """Publish, and wait until all `members` of each publisher's room have every message."""
        wanted = self._generator.delivered + len(publishers) * members * burst
        self.publish(publishers, burst)
        self._generator.await_deliveries(wanted)

    def check(self) -> None:
        """Raise BenchError unless every client received every message of its room once."""
        for client in self.clients:
            if client.delivered != self._published[client.room]:
                raise BenchError(f"{client} received {client.delivered} of {self._published[client.room]} messages")

    def stop(self) -> None:
        self._generator.disconnect(self.clients)
        for node in self.nodes:
            node.service.stop()
