# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Runs the benchmark: python -m bench [--quick] [--only NAME,NAME] [--write]."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import trials
from bench.generator import BenchError
from bench.machine import machine
from bench.peers import Peer
from bench.peers.nats import Nats
from bench.peers.nchan import Nchan
from bench.peers.plain import Plain
from bench.peers.socketio import SocketIo
from bench.peers.ws_server import WsServer
from bench.process import Cores
from bench.report import report
from bench.stalls import stalls
from bench.trials import Scale, opened

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / ".lab/bench/results"
PEERS: list[Peer] = [WsServer(), Nats(), Nchan(), SocketIo(), Plain()]
FULL = Scale(2000, 7, (100_000, 100_000, 200_000), (1000, 4000, 16000), 26.0, 10.0, 12800, 18000)
QUICK = Scale(500, 3, (25_000, 25_000, 50_000), (500, 2000), 5.0, 2.0, 2560, 2000)
SMOKE = Scale(20, 1, (40, 200, 1000), (40, 80), 0.2, 0.2, 256, 80)
# Files that a process has open in addition to its connections.
_OTHER_FILES = 300


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller counts: tests that it works, not how fast it is")
    parser.add_argument("--only", default="", metavar="NAMES", help="these servers, separated by commas")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else [peer.name for peer in PEERS]
    if unknown := set(names) - {peer.name for peer in PEERS}:
        parser.error(
            f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(peer.name for peer in PEERS)}"
        )
    chosen = [peer for peer in PEERS if peer.name in names]
    shutil.rmtree(trials.LOGS, ignore_errors=True)
    try:
        results = run(chosen, fitting(QUICK if arguments.quick else FULL))
    except BenchError as exc:
        sys.exit(f"bench: {exc}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    raw = RESULTS / f"{time.strftime('%Y-%m-%dT%H%M%S')}.json"
    raw.write_text(json.dumps(results, indent=1))
    text = report(results)
    print(text)
    print(f"\nEvery sample: {raw.relative_to(ROOT)}")
    if arguments.write:
        (ROOT / "docs/benchmarks.md").write_text(text + "\n")


def fitting(scale: Scale) -> Scale:
    """Raise the limit of open files if possible, and return the scale that fits."""
    wanted = 65536
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, wanted), max(hard, wanted)))
    except ValueError:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES
    return scale._replace(
        subscribers=min(scale.subscribers, room // len(PEERS)),
        steps=tuple(sorted({min(step, room // 10 * 10) for step in scale.steps})),
        crowd=min(scale.crowd, room // 10 * 10),
    )


def run(peers: list[Peer], scale: Scale) -> dict[str, Any]:
    """Run all trials of these servers.

    Raises BenchError if a message is missing or arrived twice.
    """
    begin = time.monotonic()
    results: dict[str, Any] = {
        "machine": machine(Cores.of_this_machine()),
        "scale": scale._asdict(),
        "peers": {
            peer.name: {"version": peer.version(), "auth": peer.auth, "across": peer.across_workers} for peer in peers
        },
    }
    results |= {"growth": {}, "across": {}, "fsync": {}, "stalls": None}
    with opened(scale) as bench:
        results["one_room"] = _reported("one room", trials.one_room, bench, peers)
        for peer in peers:
            results["growth"][peer.name] = _reported(f"growth of {peer.name}", trials.growth, bench, peer)
        for peer in peers:
            if peer.across_workers:
                results["across"][peer.name] = _reported(
                    f"two workers of {peer.name}", trials.across_workers, bench, peer
                )
    for peer in peers:
        if isinstance(peer, WsServer):
            for fsync in ("always", "everysec"):
                with opened(scale, fsync) as bench:
                    results["fsync"][fsync] = _reported(f"appendfsync {fsync}", trials.acknowledged, bench, peer)
            with opened(scale) as bench:
                results["stalls"] = _reported(f"stalls of {peer.name}", stalls, bench, peer)
    results["seconds"] = time.monotonic() - begin
    return results


def _reported(what: str, trial: Callable[..., Any], *arguments: Any) -> Any:
    """Report the current measurement and its duration on standard error."""
    begin = time.monotonic()
    print(f"{what} …", end="", file=sys.stderr, flush=True)
    result = trial(*arguments)
    print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return result


if __name__ == "__main__":
    main()
