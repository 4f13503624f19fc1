# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A control group (version 2) for all processes of one stage of the tests.

The group counts the CPU seconds of all these processes, including ended ones. It can end all of
them, even if their parents have ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")


class ControlGroup:
    """The group with a name such as "ws-test/1a2b/lint". Creating the group needs root."""

    def __init__(self, name: str) -> None:
        pure = (MOUNT / "cgroup.controllers").exists()
        self.path = (MOUNT if pure else MOUNT / "unified") / name

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def enter(self) -> None:
        """Move the calling process into the group, with the processes that it starts later."""
        (self.path / "cgroup.procs").write_text("0")

    def cpu_seconds(self) -> float:
        """CPU seconds of all present and past processes of the group and its subgroups."""
        return read_cpu_seconds(self.path)

    def end(self) -> None:
        """Kill every process of the group and of its subgroups, and remove them."""
        while pids := self._pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for path, _, _ in os.walk(self.path, topdown=False):
            while True:
                try:
                    Path(path).rmdir()
                except OSError:  # a dead process has not left its group yet
                    time.sleep(0.05)
                else:
                    break

    def _pids(self) -> list[int]:
        found: list[int] = []
        for file in self.path.rglob("cgroup.procs"):
            found += map(int, file.read_text().split())
        return [pid for pid in found if pid != os.getpid()]


def read_cpu_seconds(group: Path) -> float:
    """The `usage_usec` of a group's cpu.stat, in seconds."""
    fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(fields["usage_usec"]) / 1e6
