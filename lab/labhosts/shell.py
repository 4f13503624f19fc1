# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Runs other programs, writes files, and defines the error that the lab shows to users."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


class LabError(Exception):
    """An error for the user, in one sentence."""


def run(argv: Sequence[str | Path], *, stdin: str = "", timeout: float = 60) -> str:
    """Run a program and return its output. Its own error message becomes the LabError."""
    command = " ".join(map(str, argv))
    try:
        done = subprocess.run(
            list(map(str, argv)), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed; run lab/prerequisites.sh") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"not done after {timeout:.0f} s: {command}") from None
    if done.returncode != 0:
        raise LabError(f"failed with status {done.returncode}: {command}\n{done.stderr.strip()}")
    return done.stdout


def succeeds(argv: Sequence[str | Path], *, timeout: float = 60) -> bool:
    """Whether a program ends with status 0."""
    try:
        run(argv, timeout=timeout)
    except LabError:
        return False
    return True


def write(path: Path, text: str) -> None:
    """Write a file of a host."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
