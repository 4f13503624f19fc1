# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The cost of a process as the kernel counts it, and the core on which it runs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_CPUCLOCK_SCHED = 2


class Cores(NamedTuple):
    """Cores for the server under test, the load and the stores; shared on a smaller machine."""

    server: int
    load: int
    stores: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[1 % len(cores)], cores[2] if len(cores) > 2 else cores[1 % len(cores)])

    def __str__(self) -> str:
        if self.server == self.load:
            return "one core for everything: the server waits for the load, so the times are not meaningful"
        shared = "with the load" if self.stores == self.load else f"on core {self.stores}"
        return f"server on core {self.server}, load on core {self.load}, Redis and Postgres {shared}"


class Tree:
    """A process and its descendants."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def pids(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def cpu_s(self) -> float:
        """User and system time in seconds, with nanoseconds, which /proc/PID/stat rounds."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
        return total

    def rss_kib(self) -> int:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024

    def pin(self, core: int) -> None:
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})


class Service(Tree):
    """A program of the run, on one core, its output in a file."""

    def __init__(self, command: list[Any], core: int, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                # However the benchmark ends, it leaves no server behind.
                ["taskset", "--cpu-list", str(core), "setpriv", "--pdeathsig", "KILL", *map(str, command)],
                # A setting of the service in this environment is not for the benchmark.
                env={name: value for name, value in os.environ.items() if not name.startswith("WS_")}
                | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        super().__init__(self._process.pid)

    def await_port(self, port: int) -> None:
        """Wait until the port is open. Raises RuntimeError if the program ends before."""
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                end = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._process.args!r} does not listen on port {port}:\n{end}")
            time.sleep(0.05)

    def stop(self) -> None:
        pids = self.pids()
        self._process.kill()
        self._process.wait()
        for pid in pids[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
