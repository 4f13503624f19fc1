# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Runs programs with their output in a log, and playbooks with their events in hand."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UP = ROOT / ".lab/up"
_CALLBACKS = Path(__file__).with_name("callback")
_LOOK_S = 0.2
_TAIL_LINES = 40


class ProgramError(Exception):
    """A program failed. `log`: where its output is."""

    def __init__(self, what: str, status: int, log: Path) -> None:
        super().__init__(f"{what} failed with status {status}")
        self.log = log

    def report(self) -> str:
        """What failed, below the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([*(f"    {line}" for line in lines), "", f"{self}. All of its output: {self.log}"])


def run(name: str, argv: Sequence[str | Path], log: Path, look: Callable[[], None]) -> None:
    """Run a program with its output in `log`, and call `look` all the while. Raises ProgramError."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(map(str, argv)), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(process, look)
    finally:
        _end(process)
    if process.returncode:
        raise ProgramError(name, process.returncode, log)


def play(playbook: str, log: Path, take: Callable[[dict[str, str]], None], look: Callable[[], None]) -> None:
    """Run a playbook on the lab's fleet with its output in `log`. `take` gets each event. Raises ProgramError."""
    with tempfile.NamedTemporaryFile("r", dir=UP, prefix="events-") as events, log.open("ab") as output:
        environment = os.environ | {
            "ANSIBLE_CALLBACK_PLUGINS": str(_CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "lab_events",
            "ANSIBLE_NOCOLOR": "1",
            "LAB_EVENTS": events.name,
        }
        process = subprocess.Popen(
            ["ansible-playbook", "-i", UP / "inventory", f"playbooks/{playbook}.yml"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        rest = ""

        def read() -> None:
            nonlocal rest
            *lines, rest = (rest + events.read()).split("\n")
            for line in lines:
                take(json.loads(line))
            look()

        try:
            _wait(process, read)
            read()
        finally:
            _end(process)
    if process.returncode:
        raise ProgramError(f"playbooks/{playbook}.yml", process.returncode, log)


def _wait(process: subprocess.Popen[bytes], look: Callable[[], None]) -> None:
    while process.poll() is None:
        look()
        time.sleep(_LOOK_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """A verb that is interrupted leaves nothing running."""
    if process.poll() is None:
        process.terminate()
        process.wait()
