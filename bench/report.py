# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The tables: from the raw results to the text of docs/benchmarks.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from bench.trials import BURSTS, MEMBERS

OWN = "ws-server"
_RIVALS = ("nats-server", "nchan")
# The goals: factors of the better rival's cost, at bursts of BURSTS.
_DELIVERY_GOALS = {1: 1.0, 10: 0.8, 50: 0.8}
_KIB_GOAL = 8.0
_IDLE_US_GOAL = 3.0
_HANDSHAKES_GOAL = 2500.0

_METHOD = """\
The load generator runs on one core and the server under test on another; both are pinned. All
servers get the same load from the same generator. A member of a room publishes 64 bytes of JSON on
its own WebSocket. A burst is a number of publishes in one write, and the next burst starts after
the last delivery. Every client counts its messages. A run in which one message is missing or
arrives twice has no result. CPU is user and system time of the server's processes, read from the
kernel's process clock with nanoseconds. A cell shows the median of the samples, with the lowest and
highest sample. If several servers are up, their samples alternate, so that other load of the
machine affects all of them.

The servers do different work. ws-server runs with all features on: Redis deduplicates, numbers and
stores each publish on disk (`appendfsync always`) before the acknowledgement, and Postgres archives
it. Each handshake checks a token, and each join a subscription and presence. nats-server (core
NATS) and the `websockets` server forward messages and do not store them. nchan keeps the last 1,000
messages of each channel in memory. socket.io also forwards messages through Redis, without storing
them."""

_HOW = """\
## Run it

On Debian 12 or 13, as root, from a clone:

    make bench                               # everything: about 10 minutes
    make bench QUICK=1                       # smaller counts, under 3 minutes: tests that it works, not how fast it is
    make bench ONLY=ws-server,nats-server    # only these servers
    bench/profile.sh                         # a profile of ws-server's CPU (--write: into profile.md)

The command installs the other programs (nats-server, nginx with nchan, Redis and Postgres from
Debian, socket.io from npm) and starts none of them as a service. `make bench WRITE=1` writes the
tables to this page."""


def report(results: dict[str, Any]) -> str:
    """The page, in Markdown."""
    parts = [
        "# Benchmarks",
        "`make bench WRITE=1` generates this page; all its numbers are from one run.",
        _where(results),
        _METHOD,
        *_goals(results),
        *_one_room(results),
        *_small_rooms(results),
        *_connections(results),
        *_growth(results),
        *_across(results),
        *_fsync(results),
        *_stalls(results),
        _HOW,
    ]
    return "\n\n".join(parts)


def _where(results: dict[str, Any]) -> str:
    machine = results["machine"]
    rows = [
        ["machine", machine["processor"]],
        ["placement", machine["placement"]],
        ["system", machine["system"]],
        ["run", f"{machine['date']}, {results['seconds'] / 60:.0f} minutes"],
        *([name, peer["version"]] for name, peer in results["peers"].items()),
        ["with", f"Python {machine['python']}, Redis {machine['redis']}, Postgres {machine['postgres']}"],
    ]
    return _table(["", ""], rows)


def _one_room(results: dict[str, Any]) -> list[str]:
    rows = [[name, *(_spread(bursts[burst]) for burst in BURSTS)] for name, bursts in results["one_room"].items()]
    return [
        f"## CPU per delivery: {results['scale']['subscribers']:,} subscribers in one room",
        "Microseconds of the server's CPU per delivered message. Square brackets show Redis's own CPU.",
        _table(["server", *(f"burst {burst}" for burst in BURSTS)], rows),
    ]


def _small_rooms(results: dict[str, Any]) -> list[str]:
    last = {name: growth["steps"][-1] for name, growth in results["growth"].items()}
    connections = next(iter(last.values()))["connections"]
    rows = [[name, *(_spread(step[f"burst_{burst}"]) for burst in BURSTS)] for name, step in last.items()]
    return [
        f"## CPU per delivery: {connections // MEMBERS:,} rooms of {MEMBERS}",
        f"Microseconds per delivery, with bursts into 20 rooms at a time. Each publish has only {MEMBERS} deliveries to spread its own"
        " cost over, so the cost of all work besides forwarding shows here. [profile.md](profile.md) breaks this cost down.",
        _table(["server", *(f"burst {burst}" for burst in BURSTS)], rows),
    ]


def _connections(results: dict[str, Any]) -> list[str]:
    rows = []
    for name, growth in results["growth"].items():
        server = [sample["server_us"] for sample in growth["handshakes"]]
        rows.append(
            [
                name,
                results["peers"][name]["auth"],
                f"{1e6 / median(server):,.0f} ({1e6 / max(server):,.0f}–{1e6 / min(server):,.0f})",
                f"{1e6 / median(sample['wall_us'] for sample in growth['handshakes']):,.0f}",
                f"{median(sample['server_us'] for sample in growth['joins']):.0f}",
                f"{_kib(growth['steps'][0], growth['steps'][-1]):.1f}",
                f"{growth['steps'][-1]['idle']['server_us']:.1f}",
            ]
        )
    steps = results["scale"]["steps"]
    return [
        "## Connections",
        f"Handshakes: the number that one core can do (from CPU time), and the number per second that was measured. A join's CPU is in"
        f" microseconds. Memory: the server's RSS per joined connection, from {steps[0]:,} to {steps[-1]:,} connections in rooms of {MEMBERS}."
        f" Idle: microseconds of CPU per connection and second at a heartbeat of 25 s, over {results['scale']['idle_s']:.0f} s with"
        f" {steps[-1]:,} connections.",
        _table(
            ["server", "a handshake proves", "handshakes/s per core", "seen/s", "join µs", "KiB each", "idle µs/s"],
            rows,
        ),
    ]


def _growth(results: dict[str, Any]) -> list[str]:
    steps = results["scale"]["steps"]
    head = ["server", *(f"{step:,}: µs" for step in steps), *(f"to {step:,}: KiB" for step in steps[1:])]
    rows = []
    for name, growth in results["growth"].items():
        cpu = [_spread(step["burst_10"]) for step in growth["steps"]]
        memory = [
            f"{_kib(before, after):.1f}" for before, after in zip(growth["steps"], growth["steps"][1:], strict=False)
        ]
        rows.append([name, *cpu, *memory])
    return [
        f"## Growth from {steps[0]:,} to {steps[-1]:,} connections",
        f"Rooms of {MEMBERS}: microseconds per delivery at burst 10, and KiB of RSS for each additional connection since the previous step.",
        _table(head, rows),
    ]


def _across(results: dict[str, Any]) -> list[str]:
    if not results["across"]:
        return []
    rows = [
        [name, results["peers"][name]["across"], f"{delay['p50']:.2f}", f"{delay['p99']:.2f}"]
        for name, delay in results["across"].items()
    ]
    return [
        "## Across two workers",
        "Milliseconds from a publish at one process to its delivery by another, at 100 per second. Both processes share a core. nchan and"
        " the `websockets` server run as one process here.",
        _table(["server", "through", "p50", "p99"], rows),
    ]


def _fsync(results: dict[str, Any]) -> list[str]:
    if not results["fsync"]:
        return []
    rows = [
        [
            f"`{fsync}`",
            f"{acked['latency_ms']['p50']:.2f}",
            f"{acked['latency_ms']['p99']:.2f}",
            f"{median(acked['acks_per_s']):,.0f} ({min(acked['acks_per_s']):,.0f}–{max(acked['acks_per_s']):,.0f})",
        ]
        for fsync, acked in results["fsync"].items()
    ]
    return [
        "## What `appendfsync` costs",
        "ws-server: milliseconds from a publish to its ack at 100 per second, and acks per second with 128 publishes in flight. With `always`"
        " (the role's default), acknowledged messages survive a power cut; `everysec` may lose the last second. The result depends on"
        " this machine's disk.",
        _table(["appendfsync", "p50", "p99", "acks/s"], rows),
    ]


def _stalls(results: dict[str, Any]) -> list[str]:
    if not results["stalls"]:
        return []
    rows = [[what, _bucket(seconds)] for what, seconds in results["stalls"]["longest_s"].items()]
    return [
        f"## Stalls of the event loop at {results['stalls']['connections']:,} connections",
        "ws-server, without limits of a user's rate: the bucket of `ws_event_loop_lag_seconds` that has the longest stall during each input."
        " The metric measures 20 times a second. A stall is wall time, so other programs on the worker's core add to it.",
        _table(["input", "longest stall"], rows),
    ]


def _bucket(seconds: float) -> str:
    return "more than 2.5 s" if seconds == math.inf else f"≤ {1000 * seconds:g} ms"


def _goals(results: dict[str, Any]) -> list[str]:
    if OWN not in results["growth"]:
        return []
    own = results["growth"][OWN]
    rows = [*_delivery_goals(results)]
    memory = _kib(own["steps"][0], own["steps"][-1])
    rows.append(
        ["memory per idle joined connection", f"≤ {_KIB_GOAL:.0f} KiB", f"{memory:.1f} KiB", _met(memory <= _KIB_GOAL)]
    )
    idle = own["steps"][-1]["idle"]["server_us"]
    rows.append(
        ["idle CPU per connection", f"≤ {_IDLE_US_GOAL:.0f} µs/s", f"{idle:.1f} µs/s", _met(idle <= _IDLE_US_GOAL)]
    )
    rate = 1e6 / median(sample["server_us"] for sample in own["handshakes"])
    rows.append(
        [
            "handshakes with JWT per core",
            f"≥ {_HANDSHAKES_GOAL:,.0f}/s",
            f"{rate:,.0f}/s",
            _met(rate >= _HANDSHAKES_GOAL),
        ]
    )
    return ["## Goals", _table(["", "goal", "this run", ""], rows)]


def _delivery_goals(results: dict[str, Any]) -> Iterable[list[str]]:
    shapes = {
        "one room": results["one_room"],
        f"rooms of {MEMBERS}": {
            name: {burst: growth["steps"][-1][f"burst_{burst}"] for burst in BURSTS}
            for name, growth in results["growth"].items()
        },
    }
    for shape, servers in shapes.items():
        rivals = [name for name in _RIVALS if name in servers]
        for burst, goal in _DELIVERY_GOALS.items() if rivals else ():
            best = min(rivals, key=lambda name: _middle(servers[name][burst]))
            ratio = _middle(servers[OWN][burst]) / _middle(servers[best][burst])
            yield [
                f"CPU per delivery, {shape}, burst {burst}",
                f"≤ {goal:.1f} × the better of {' and '.join(rivals)}",
                f"{ratio:.2f} × {best}",
                _met(ratio <= goal),
            ]


def _middle(samples: Sequence[dict[str, float]]) -> float:
    return float(median(sample["server_us"] for sample in samples))


def _spread(samples: Sequence[dict[str, float]]) -> str:
    server = [sample["server_us"] for sample in samples]
    redis = median(sample["redis_us"] for sample in samples)
    beside = f" [+{redis:.2f}]" if redis >= 0.05 * median(server) else ""
    return f"{median(server):.2f} ({min(server):.2f}–{max(server):.2f}){beside}"


def _kib(before: dict[str, Any], after: dict[str, Any]) -> float:
    return float((after["rss_kib"] - before["rss_kib"]) / (after["connections"] - before["connections"]))


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
