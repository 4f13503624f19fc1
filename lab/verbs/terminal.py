# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Runs a program in a separate terminal, and reads its screen."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import os
import pty
import struct
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_CLEAR = "\r\x1b[K"


class Screen:
    """The lines of a program that writes like `Console`: permanent lines, and one live line."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._live = ""

    def feed(self, text: str) -> None:
        *ended, live = (self._live + text).replace("\r\n", "\n").split("\n")
        self._lines += (line.rpartition(_CLEAR)[2] for line in ended)
        self._live = live.rpartition(_CLEAR)[2] if _CLEAR in live else live

    def last(self, count: int) -> str:
        return "\n".join([*self._lines, self._live.replace("\r", "")][-count:])


class Terminal:
    """Runs a program until the program or the context ends."""

    def __init__(self, argv: Sequence[str], directory: Path, columns: int) -> None:
        self.screen = Screen()
        self._argv = argv
        self._directory = directory
        self._columns = columns
        self._main = -1
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def __aenter__(self) -> Self:
        self._main, own = pty.openpty()
        os.set_blocking(self._main, False)
        fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self._columns, 0, 0))
        asyncio.get_running_loop().add_reader(self._main, self._read)
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, cwd=self._directory, stdin=own, stdout=own, stderr=own
        )
        os.close(own)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self.runs:
            self._process.terminate()
        await self._process.wait()
        while self._read():
            pass
        asyncio.get_running_loop().remove_reader(self._main)
        os.close(self._main)

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    @property
    def status(self) -> int | None:
        return self._process.returncode

    def _read(self) -> bool:
        """Read the output. Return whether there was any."""
        try:
            self.screen.feed(self._decoder.decode(os.read(self._main, 65536)))
        except BlockingIOError:
            return False
        except OSError:  # the program has ended
            asyncio.get_running_loop().remove_reader(self._main)
            return False
        return True
