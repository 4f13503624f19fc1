# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Profiles ws-server's CPU: python -m bench.profile PY_SPY [--write].

Prints each function's own share and its share with callees. `--write`: writes the shares of the
service's parts in rooms of ten to docs/profile.md, which explains the cost of small rooms.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.__main__ import FULL, ROOT, fitting
from bench.peers.ws_server import WsServer
from bench.process import Tree
from bench.trials import BURSTS, MEMBERS, opened

_SECONDS = 8
_SHOWN = 25
# The path of a publish, in and out: a function's share with its callees.
_PARTS = {
    "WebSocketConnection.buffer_updated": "a client's frames: read, parsed, checked, passed to the broker",
    "WebSocketProtocol.receive": "… of which the WebSocket protocol",
    "Session._publish": "… of which the publish itself: permission, limits, keys, the queue to Redis",
    "RedisBroker._send_publishes": "the commands to Redis, and its answers",
    "RedisBroker._read_feed": "the live feed from Redis: decoded, ordered, queued for the members",
    "BatchWriter.flush": "the writes to the members",
    "Archiver._move": "the move to Postgres",
}
_PAGE = """\
# Where a publish's CPU goes

`bench/profile.sh --write` generates this page: shares of ws-server's CPU, with all features on and
{members:,} clients in rooms of {size}, sampled by py-spy. [benchmarks.md](benchmarks.md) has the
totals.

{table}

In a room with thousands of members, the writes are nearly all of the cost, and the publish itself
hardly counts. In a room of ten, the publish is most of the cost: Redis checks, numbers,
deduplicates and stores a message, every worker receives it again, and it moves to Postgres. Servers
that forward messages without storing them have no such cost, and in C or Go they spend a few
microseconds where Python spends tens. With larger bursts, the writes, which all servers share,
count less, and the difference grows.
"""


def main() -> None:
    py_spy, *options = sys.argv[1:]
    small_rooms: dict[int, Counter[str]] = {}
    with opened(fitting(FULL)) as bench, bench.swarm(WsServer()) as swarm:
        members = bench.scale.subscribers

        def profile(what: str, work: Callable[..., object], *arguments: object) -> Counter[str]:
            return _profile(py_spy, swarm.processes[0], what, partial(work, *arguments))

        swarm.join(swarm.connect(["lobby"] * members))
        for burst in BURSTS:
            profile(f"one room, burst {burst}", swarm.deliver, swarm.clients[:1], members, burst)
        profile("handshakes", swarm.connect, ["quiet"] * 100)
        small = swarm.connect([f"room{number // MEMBERS}" for number in range(members)])
        profile("joins", swarm.join, small)
        for burst in BURSTS:
            publishers = small[:: MEMBERS * 10]
            what = f"rooms of {MEMBERS}, burst {burst}"
            small_rooms[burst] = profile(what, swarm.deliver, publishers, MEMBERS, burst)
    if "--write" in options:
        page = _PAGE.format(members=members, size=MEMBERS, table=_table(small_rooms))
        (ROOT / "docs/profile.md").write_text(page)


def _profile(py_spy: str, process: Tree, what: str, work: Callable[[], object]) -> Counter[str]:
    """Return each function's share, with its callees, of 1."""
    with tempfile.NamedTemporaryFile() as stacks:
        # Stopping the process for each sample would overstate system calls.
        command = [py_spy, "record", "--pid", process.pid, "--nonblocking", "--rate", 400, "--duration", _SECONDS]
        command += ["--format", "raw", "--output", stacks.name]
        recorder = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while recorder.poll() is None and time.monotonic() < end:
            work()
        return _shares(what, Path(stacks.name).read_text().splitlines())


def _shares(what: str, stacks: Sequence[str]) -> Counter[str]:
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
    return Counter({frame.partition(" ")[0]: count / total for frame, count in whole.items()})


def _table(small_rooms: dict[int, Counter[str]]) -> str:
    lines = ["", *(f"burst {burst}" for burst in small_rooms)], ["---"] * (1 + len(small_rooms))
    rows = [[text, *(f"{shares[name]:.0%}" for shares in small_rooms.values())] for name, text in _PARTS.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in (*lines, *rows))


if __name__ == "__main__":
    main()
