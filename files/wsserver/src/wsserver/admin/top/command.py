# SPDX-License-Identifier: MIT
"""`ws-server ctl top`, for the operator's terminal and for scripts."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from wsserver.admin.top.frame import frame
from wsserver.admin.top.screen import Screen
from wsserver.admin.top.watched import ANSWER_S, Row, Watched

# The names of the workers, in order, and their control sockets.
Find = Callable[[], Mapping[str, Path]]


def run(find: Find, interval_s: float, once: bool) -> int:
    """Show the workers that `find` returns, which is called for every update."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return asyncio.run(_once(find, interval_s) if once or not on_terminal else _live(find, interval_s))


class _Workers:
    def __init__(self, find: Find) -> None:
        self._find = find
        self._watched: dict[str, Watched] = {}

    async def look(self, wait_s: float) -> None:
        found = self._find()
        for name in self._watched.keys() - found.keys():
            await self._watched.pop(name).close()
        # In the order of `find`.
        self._watched = {name: self._watched.get(name) or Watched(name, path) for name, path in found.items()}
        await asyncio.gather(*(watched.look(wait_s) for watched in self._watched.values()))

    @property
    def rows(self) -> list[Row]:
        return [watched.row for watched in self._watched.values()]

    async def close(self) -> None:
        for watched in self._watched.values():
            await watched.close()


async def _once(find: Find, interval_s: float) -> int:
    workers = _Workers(find)
    try:
        await workers.look(ANSWER_S)
        await asyncio.sleep(interval_s)  # a rate needs two readings
        await workers.look(ANSWER_S)
        rows = workers.rows
    finally:
        await workers.close()
    colours = sys.stdout.isatty() and _colours()
    print(*frame(_head(f"over {interval_s:g} s"), rows, shutil.get_terminal_size().columns, None, colours), sep="\n")
    return 0 if all(row.answer for row in rows) else 1


async def _live(find: Find, interval_s: float) -> int:
    """Show frames until the operator ends it."""
    loop = asyncio.get_running_loop()
    workers, screen = _Workers(find), Screen()
    ended = asyncio.Event()
    # Handlers only queue actions, and the loop below runs them, so that an exception ends the
    # command.
    todo: asyncio.Queue[Callable[[], object]] = asyncio.Queue()

    async def look_often() -> None:
        while True:
            due = loop.time() + interval_s
            await workers.look(min(interval_s, ANSWER_S))
            todo.put_nowait(draw)
            await asyncio.sleep(due - loop.time())

    def draw() -> None:
        lines = frame(_head(f"every {interval_s:g} s, q quits"), workers.rows, *screen.size, _colours())
        screen.show(lines)

    def read_keys() -> None:
        try:
            keys = os.read(screen.keys, 1024)
        except OSError:
            keys = b""  # the terminal is gone
        if not keys or b"q" in keys.lower():
            todo.put_nowait(ended.set)

    def suspend() -> None:
        screen.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        screen.enter()
        draw()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, todo.put_nowait, ended.set)
    loop.add_signal_handler(signal.SIGWINCH, todo.put_nowait, draw)
    loop.add_signal_handler(signal.SIGTSTP, todo.put_nowait, suspend)
    looking = asyncio.create_task(look_often())
    looking.add_done_callback(lambda done: todo.put_nowait(done.result))
    try:
        screen.enter()
        loop.add_reader(screen.keys, read_keys)
        while not ended.is_set():
            (await todo.get())()
    finally:
        screen.leave()
        looking.cancel()
        await asyncio.wait({looking})
        await workers.close()
    return 0


def _head(how: str) -> str:
    return f"{socket.gethostname()}  {time.strftime('%H:%M:%S')}  {how}"


def _colours() -> bool:
    """https://no-color.org"""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
