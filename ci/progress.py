# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Reads a stage's progress from its log: the step, the test or task, and each failed test."""

from __future__ import annotations

import re
from pathlib import Path

# A stage's script announces each step with a line like "--- mypy". molecule has its own format.
STEP = re.compile(r"^--- (.+)|^INFO +\[(\S+ > \w+)\] Executing")
# A line of pytest -v, alone or as xdist prints it: "[gw1] [ 12%] PASSED tests/test_x.py::test_y".
TEST = re.compile(
    r"^(?:\[gw\d+\] \[ *(?P<percent>\d+%)\] )?(?:(?P<before>[A-Z]+) )?(?P<test>\S+\.py::[^\n]+?)(?: (?P<after>PASSED|FAILED|ERROR|SKIPPED)\b.*)?$"
)
TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.+?)\]")


class Progress:
    """Follows a log while a stage writes it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = 0
        self.step = ""
        self.detail = ""
        self.failed: list[str] = []

    def read(self) -> list[str]:
        """Read new lines since the last call, and return failed tests in them."""
        with self._log.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        end = new.rfind(b"\n") + 1
        self._offset += end
        before = len(self.failed)
        for line in new[:end].decode(errors="replace").splitlines():
            self._take(line.rstrip())
        # pytest writes a test's name when it begins, and the rest of the line when it ends.
        if found := TEST.match(new[end:].decode(errors="replace").rstrip()):
            self.detail = found["test"].removeprefix("tests/")
        return self.failed[before:]

    def _take(self, line: str) -> None:
        if found := STEP.match(line):
            self.step, self.detail = found[1] or found[2], ""
        elif found := TASK.match(line):
            self.detail = found[1]
        elif found := TEST.match(line):
            name = found["test"].removeprefix("tests/")
            self.detail = f"{found['percent']} {name}" if found["percent"] else name
            if "FAILED" in (found["before"], found["after"]) or "ERROR" in (found["before"], found["after"]):
                self.failed.append(found["test"])

    def __str__(self) -> str:
        return ": ".join(part for part in (self.step, self.detail) if part)
