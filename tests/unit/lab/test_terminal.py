# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The screen of a program that writes like the verbs."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from support.wait import until
from verbs.console import Console
from verbs.terminal import Screen, Terminal


class _Stream(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_screen_shows_the_lines_that_stay_and_the_live_one() -> None:
    stream = _Stream()
    console = Console(stream)
    console.line("first")
    console.live("worker 1 of 4")
    console.live("worker 2 of 4")
    console.line("second")
    console.live("worker 3 of 4")
    written = stream.getvalue().replace("\n", "\r\n")  # as a terminal does
    for size in (1, 3, len(written)):
        screen = Screen()
        for place in range(0, len(written), size):
            screen.feed(written[place : place + size])
        assert screen.last(10) == "first\nsecond\nworker 3 of 4"
        assert screen.last(2) == "second\nworker 3 of 4"


@pytest.mark.asyncio
async def test_a_program_has_a_terminal_until_it_ends(tmp_path: Path) -> None:
    program = "import os, sys; print(sys.stdout.isatty(), os.get_terminal_size().columns, '·'); sys.exit(3)"
    async with Terminal([sys.executable, "-c", program], tmp_path, 90) as terminal:
        await until(lambda: not terminal.runs)
        assert terminal.status == 3
    assert terminal.screen.last(2) == "True 90 ·\n"


@pytest.mark.asyncio
async def test_a_program_ends_with_its_terminal(tmp_path: Path) -> None:
    async with Terminal(["sleep", "60"], tmp_path, 90) as terminal:
        assert terminal.runs
    assert terminal.status == -15
