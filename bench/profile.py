# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Where ws-server's CPU goes: python -m bench.profile PY_SPY. Prints each function's own share and its share with what it calls."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.__main__ import FULL, fitting
from bench.peers.ws_server import WsServer
from bench.process import Tree
from bench.trials import BURSTS, MEMBERS, opened

_SECONDS = 8
_SHOWN = 25


def main() -> None:
    py_spy = sys.argv[1]
    with opened(fitting(FULL)) as bench, bench.swarm(WsServer()) as swarm:
        members = bench.scale.subscribers

        def profile(what: str, work: Callable[..., object], *arguments: object) -> None:
            _profile(py_spy, swarm.processes[0], what, partial(work, *arguments))

        swarm.join(swarm.connect(["lobby"] * members))
        for burst in BURSTS:
            profile(f"one room, burst {burst}", swarm.deliver, swarm.clients[:1], members, burst)
        profile("handshakes", swarm.connect, ["quiet"] * 100)
        small = swarm.connect([f"room{number // MEMBERS}" for number in range(members)])
        profile("joins", swarm.join, small)
        for burst in BURSTS:
            profile(f"rooms of {MEMBERS}, burst {burst}", swarm.deliver, small[:: MEMBERS * 10], MEMBERS, burst)


def _profile(py_spy: str, process: Tree, what: str, work: Callable[[], object]) -> None:
    with tempfile.NamedTemporaryFile() as stacks:
        command = [py_spy, "record", "--pid", process.pid, "--native", "--rate", 400, "--duration", _SECONDS]
        command += ["--format", "raw", "--output", stacks.name]
        recorder = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while recorder.poll() is None and time.monotonic() < end:
            work()
        _print(what, Path(stacks.name).read_text().splitlines())


def _print(what: str, stacks: Sequence[str]) -> None:
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks:
        stack, _space, samples = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        own[frames[-1]] += int(samples)
        for frame in set(frames):
            whole[frame] += int(samples)
    total = own.total() or 1
    print(f"\n{what}: {total} samples\n   own  whole")
    for frame, count in own.most_common(_SHOWN):
        print(f"{count / total:6.1%} {whole[frame] / total:6.1%}  {frame}")


if __name__ == "__main__":
    main()
