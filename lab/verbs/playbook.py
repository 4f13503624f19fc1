# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Runs programs with their output in a log, and playbooks with access to their events."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
UP = ROOT / ".lab/up"
_CALLBACKS = Path(__file__).with_name("callback")
_LOOK_S = 0.2
_TAIL_LINES = 40
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class ProgramError(Exception):
    """A program failed. `log` is the path of its output."""

    def __init__(self, what: str, status: int, log: Path) -> None:
        super().__init__(f"{what} failed with status {status}")
        self.log = log

    def report(self) -> str:
        """The end of the log, and below it the failure."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([*(f"    {line}" for line in lines), "", f"{self}. All of its output: {self.log}"])


def start(argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in the clone. It ends with this process, even if this process is killed.

    A playbook that outlived its verb would keep the lock of the fleet, and change the host of the
    next verb.
    """
    return subprocess.Popen(
        list(map(str, argv)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        preexec_fn=_end_with_parent,  # noqa: PLW1509 (no threads here)
        **options,
    )


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_as_on_interrupt() -> None:
    """Let `kill` end this process like Ctrl-C: the programs that this process started end first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def run(name: str, argv: Sequence[str | Path], log: Path, look: Callable[[], None]) -> None:
    """Run a program with its output in `log`, and call `look` repeatedly. Raises ProgramError."""
    with log.open("ab") as output:
        process = start(argv, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(process, look)
    finally:
        _end(process)
    if process.returncode:
        raise ProgramError(name, process.returncode, log)


def play(
    playbook: str,
    log: Path,
    take: Callable[[dict[str, str]], None],
    look: Callable[[], None],
) -> None:
    """Run a playbook on the lab's fleet with its output in `log`. `take` gets each event.

    Raises ProgramError.
    """
    with tempfile.NamedTemporaryFile("r", dir=UP, prefix="events-") as events, log.open("ab") as output:
        environment = os.environ | {
            "ANSIBLE_CALLBACK_PLUGINS": str(_CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "lab_events",
            "ANSIBLE_NOCOLOR": "1",
            "LAB_EVENTS": events.name,
        }
        argv = ["ansible-playbook", "-i", f"{UP}/inventory", f"playbooks/{playbook}.yml"]
        process = start(argv, env=environment, stdout=output, stderr=subprocess.STDOUT)
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
    """End the program, so that an interrupted verb leaves nothing running."""
    if process.poll() is None:
        process.terminate()
        process.wait()
