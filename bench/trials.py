# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The measurements. Each trial returns plain data; CPU times are in microseconds."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.generator import ACK, DELIVERY, Generator, Watch
from bench.peers import Peer, Place
from bench.process import Cores
from bench.stores import Stores, stores
from bench.swarm import Cost, Swarm

LOGS = Path(__file__).parents[1] / ".lab/bench/logs"
BURSTS = (1, 10, 50)
MEMBERS = 10  # of a small room
_ROOMS_AT_ONCE = 20
_CHUNK = 1000  # clients in one sample of handshakes
_SUBSCRIBERS_ACROSS = 10
_PUBLISHERS = 8
_WINDOW = 16  # unacknowledged publishes of each client
_PACE_S = 0.01


class Scale(NamedTuple):
    """The size of a run.

    `deliveries` per sample, at the bursts of BURSTS; `steps` and `crowd` in connections.
    """

    subscribers: int
    rounds: int
    deliveries: tuple[int, int, int]
    steps: tuple[int, ...]
    idle_s: float
    latency_s: float
    publishes: int
    crowd: int


class Bench(NamedTuple):
    """The common parts of every trial."""

    generator: Generator
    place: Place
    stores: Stores
    scale: Scale

    def start(self, peer: Peer, workers: int = 1) -> Swarm:
        return Swarm(self.generator, peer, self.place, self.stores, workers)

    @contextmanager
    def swarm(self, peer: Peer, workers: int = 1) -> Iterator[Swarm]:
        swarm = self.start(peer, workers)
        try:
            yield swarm
        finally:
            swarm.stop()


@contextmanager
def opened(scale: Scale, fsync: str = "always") -> Iterator[Bench]:
    """Start the stores, and pin this process, the load, to its core.

    `fsync`: Redis's appendfsync.
    """
    everywhere = os.sched_getaffinity(0)
    cores = Cores.of_this_machine()
    LOGS.mkdir(parents=True, exist_ok=True)
    with stores(cores, fsync) as data:
        os.sched_setaffinity(0, {cores.load})
        try:
            place = Place(cores, LOGS, data.redis_url, data.postgres_dsn)
            yield Bench(Generator(), place, data, scale)
        finally:
            os.sched_setaffinity(0, everywhere)


def one_room(bench: Bench, peers: Sequence[Peer]) -> dict[str, Any]:
    """CPU per delivery, with all subscribers in one room.

    All servers stay up; samples alternate.
    """
    swarms: list[Swarm] = []
    try:
        for peer in peers:
            swarm = bench.start(peer)
            swarms.append(swarm)
            swarm.join(swarm.connect(["lobby"] * bench.scale.subscribers))
        samples: dict[str, Any] = {peer.name: {burst: [] for burst in BURSTS} for peer in peers}
        for turn in range(bench.scale.rounds + 1):
            for burst, deliveries in zip(BURSTS, bench.scale.deliveries, strict=True):
                for swarm in swarms[turn % len(swarms) :] + swarms[: turn % len(swarms)]:
                    sample = _lobby_sample(swarm, burst, deliveries)
                    if turn:  # the first sample is a warm-up
                        samples[swarm.peer.name][burst].append(sample)
        for swarm in swarms:
            swarm.check()
    finally:
        for swarm in swarms:
            swarm.stop()
    return samples


def _lobby_sample(swarm: Swarm, burst: int, deliveries: int) -> dict[str, float]:
    members = len(swarm.clients)
    times = max(1, deliveries // (members * burst))

    def work() -> None:
        for _time in range(times):
            swarm.deliver(swarm.clients[:1], members, burst)

    cost, _nothing = swarm.cost_of(work)
    return _per(cost, times * members * burst)


def growth(bench: Bench, peer: Peer) -> dict[str, Any]:
    """A growing number of rooms of ten: handshakes, memory, CPU per delivery, and idle CPU."""
    handshakes: list[dict[str, float]] = []
    joins: list[dict[str, float]] = []
    steps: list[dict[str, Any]] = []
    with bench.swarm(peer) as swarm:
        for count in bench.scale.steps:
            while (have := len(swarm.clients)) < count:
                size = min(_CHUNK, count - have)
                rooms = [f"room{number // MEMBERS}" for number in range(have, have + size)]
                cost, new = swarm.cost_of(swarm.connect, rooms)
                handshakes.append(_per(cost, size))
                cost, _nothing = swarm.cost_of(swarm.join, new)
                joins.append(_per(cost, size))
            # Memory left by start-up and handshakes does not belong to a connection.
            bench.generator.read_for(1.0)
            step: dict[str, Any] = {"connections": count, "rss_kib": swarm.rss_kib()}
            last = count == bench.scale.steps[-1]
            if last:
                step["idle"] = _idle(bench, swarm)
            for burst, deliveries in zip(BURSTS, bench.scale.deliveries, strict=True):
                if last or burst == 10:
                    step[f"burst_{burst}"] = _small_room_samples(bench, swarm, burst, deliveries // 4)
            steps.append(step)
        swarm.check()
    return {"handshakes": handshakes, "joins": joins, "steps": steps}


def _small_room_samples(bench: Bench, swarm: Swarm, burst: int, deliveries: int) -> list[dict[str, float]]:
    publishers = itertools.cycle(swarm.clients[::MEMBERS])
    times = max(1, deliveries // (_ROOMS_AT_ONCE * MEMBERS * burst))

    def work() -> None:
        for _time in range(times):
            swarm.deliver(list(itertools.islice(publishers, _ROOMS_AT_ONCE)), MEMBERS, burst)

    costs = [swarm.cost_of(work)[0] for _round in range(bench.scale.rounds + 1)]
    return [_per(cost, times * _ROOMS_AT_ONCE * MEMBERS * burst) for cost in costs[1:]]  # the first is a warm-up


def _idle(bench: Bench, swarm: Swarm) -> dict[str, float]:
    """Idle CPU per connection and second, over whole heartbeats."""
    cost, _nothing = swarm.cost_of(bench.generator.read_for, bench.scale.idle_s)
    return _per(cost, len(swarm.clients) * cost.wall)


def across_workers(bench: Bench, peer: Peer) -> dict[str, float]:
    """Milliseconds from a publish at one worker to its delivery by another, at 100 per second."""
    with bench.swarm(peer, workers=2) as swarm:
        publisher = swarm.connect(["lobby"], node=0)
        swarm.join([*publisher, *swarm.connect(["lobby"] * _SUBSCRIBERS_ACROSS, node=1)])
        bench.generator.read_for(1.0)  # a cluster exchanges its subscriptions
        seen, sent = _paced(bench, swarm, DELIVERY)
        swarm.check()
    # The publisher's own worker delivers its own message.
    return _percentiles((at - sent[number]) * 1000 for client, number, at in seen if client != publisher[0].number)


def acknowledged(bench: Bench, peer: Peer) -> dict[str, Any]:
    """Milliseconds from a publish to its ack at 100 per second, and acks per second at most."""
    with bench.swarm(peer) as swarm:
        swarm.join(swarm.connect([f"room{number}" for number in range(_PUBLISHERS)]))
        seen, sent = _paced(bench, swarm, ACK)
        latency = _percentiles((at - sent[number]) * 1000 for _client, number, at in seen)
        rates = [_acks_per_s(bench, swarm) for _round in range(bench.scale.rounds)]
        swarm.check()
    return {"latency_ms": latency, "acks_per_s": rates}


def _acks_per_s(bench: Bench, swarm: Swarm) -> float:
    watch = bench.generator.watch = Watch(ACK)
    batch = _PUBLISHERS * _WINDOW
    begin = time.perf_counter()
    for done in range(batch, bench.scale.publishes + 1, batch):
        swarm.publish(swarm.clients, _WINDOW)
        bench.generator.await_sightings(watch, done)
    seconds = time.perf_counter() - begin
    bench.generator.watch = None
    bench.generator.read_for(0.2)  # the last deliveries may arrive after the acks
    return len(watch.seen) / seconds


def _paced(
    bench: Bench, swarm: Swarm, pattern: re.Pattern[bytes]
) -> tuple[list[tuple[int, int, float]], dict[int, float]]:
    """Publish 100 messages per second by the first client. Return matches and send times."""
    for seconds in (1.0, bench.scale.latency_s):  # the first pass is a warm-up
        watch = bench.generator.watch = Watch(pattern)
        sent: dict[int, float] = {}
        begin = time.perf_counter()
        for turn in range(round(seconds / _PACE_S)):
            bench.generator.read_for(begin + turn * _PACE_S - time.perf_counter())
            now = time.perf_counter()
            sent[swarm.publish(swarm.clients[:1], 1)[0]] = now
        bench.generator.read_for(0.5)
    bench.generator.watch = None
    return watch.seen, sent


def _percentiles(values: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"count": len(ordered), "p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100]}


def _per(cost: Cost, units: float) -> dict[str, float]:
    """Microseconds per unit, and the load's share of the time, which must not be the bottleneck."""
    server, redis, postgres, load, wall = cost
    return {
        "server_us": server / units * 1e6,
        "redis_us": redis / units * 1e6,
        "postgres_us": postgres / units * 1e6,
        "wall_us": wall / units * 1e6,
        "load_share": load / wall,
    }
