# SPDX-License-Identifier: MIT
"""Shows frames on the terminal, and restores the terminal afterwards."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Sequence
from typing import Any

# The alternate screen, without a cursor and without line wrap.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_LINE, _END_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
# The size for a terminal that reports none.
_SIZE = os.terminal_size((80, 24))


class Screen:
    """Shows frames between `enter` and `leave`. Raises OSError when the terminal is gone."""

    def __init__(self) -> None:
        self.keys = sys.stdin.fileno()
        self._out = sys.stdout.fileno()
        self._before: list[Any] = []

    def enter(self) -> None:
        self._before = termios.tcgetattr(self.keys)
        tty.setcbreak(self.keys)
        self._write(_ENTER)

    def leave(self) -> None:
        if self._before:
            # A terminal that is gone needs no restoring.
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self.keys, termios.TCSADRAIN, self._before)
                self._write(_LEAVE)

    @property
    def size(self) -> os.terminal_size:
        size = os.get_terminal_size(self._out)
        return size if all(size) else _SIZE

    def show(self, lines: Sequence[str]) -> None:
        self._write(_HOME + f"{_END_LINE}\n".join(lines) + _END_LINE + _END_SCREEN)

    def _write(self, text: str) -> None:
        left = text.encode(errors="replace")
        while left:
            left = left[os.write(self._out, left) :]
