# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Prints permanent lines and one live line at the end of a terminal.

Without a terminal, the live line is printed from time to time.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

# The seconds between two prints of the live line without a terminal.
_SELDOM_S = 15.0


class Console:
    def __init__(self, stream: TextIO = sys.stdout, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now = now
        self._live = stream.isatty()
        self._printed_at = now()

    def line(self, text: str) -> None:
        """Print a permanent line."""
        self._stream.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self._stream.flush()
        self._printed_at = self._now()

    def live(self, text: str) -> None:
        """Show the current activity."""
        if self._live:
            self._stream.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
            self._stream.flush()
        elif self._now() - self._printed_at >= _SELDOM_S:
            self.line(text)

    def clear(self) -> None:
        """End the live line."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
