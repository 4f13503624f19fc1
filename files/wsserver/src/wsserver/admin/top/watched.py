# SPDX-License-Identifier: MIT
"""Polls the status of one worker."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from wsserver.admin.failure import Failure, explain
from wsserver.admin.top import process, rates
from wsserver.admin.top.process import Process
from wsserver.admin.top.rates import Rates
from wsserver.status import ArchiveStatus, BrokerStatus, Counters

ANSWER_S = 2.0
# How long to wait on one connection. A new connection joins the backlog, which a hung worker does
# not empty.
_PATIENCE_S = 30.0
_COMMAND = b'{"cmd":"status"}\n'


class Answer(Struct, frozen=True):
    """The shown part of a worker's `Status`.

    Later releases may have other states, earlier ones no counters.
    """

    version: str
    pid: int
    started_at: float
    uptime_s: float
    state: str
    drained_by: list[str]
    connections: int
    rooms: int
    broker: BrokerStatus
    archive: ArchiveStatus | None = None
    counters: Counters | None = None


class _Error(Struct):
    message: str


class _Line(Struct):
    result: Answer | None = None
    error: _Error | None = None


@dataclass(frozen=True)
class Row:
    """The current state of a worker.

    While it does not answer, `answer`, `rates` and `lag_s` are None.
    """

    name: str
    state: str
    note: str
    answer: Answer | None
    rates: Rates | None
    lag_s: float | None
    process: Process | None
    cpu: float | None


class Watched:
    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._silent_since: float | None = None
        self._failure: Failure | None = None
        self._answer: Answer | None = None
        self._rates: Rates | None = None
        self._lag_s: float | None = None
        self._pid = 0
        self._process: Process | None = None
        self._cpu: float | None = None

    async def look(self, wait_s: float) -> None:
        """Update the row, within `wait_s`.

        If the worker has not answered by then, the next call waits for that answer.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._look())
        await asyncio.wait({self._asking}, timeout=0 if self._silent else wait_s)
        if self._asking.done():
            self._asking.result()
        before, self._process = self._process, process.look(self._pid)
        self._cpu = self._process.cpu_since(before) if self._process else None

    @property
    def row(self) -> Row:
        answer = None
        if self._silent_since is not None and self._silent:
            state, note = "no answer", f"has not answered for {time.monotonic() - self._silent_since:.0f} s"
        elif self._failure is not None:
            state, note = self._failure.state, str(self._failure)
        elif self._answer is None:
            state, note = "asked", ""
        else:
            answer = self._answer
            state, note = answer.state, f"is drained by {', '.join(answer.drained_by)}" if answer.drained_by else ""
        if answer is None:
            return Row(self._name, state, note, None, None, None, self._process, self._cpu)
        return Row(self._name, state, note, answer, self._rates, self._lag_s, self._process, self._cpu)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        self._disconnect()

    @property
    def _silent(self) -> bool:
        return self._silent_since is not None and time.monotonic() - self._silent_since >= ANSWER_S

    # One poll.

    async def _look(self) -> None:
        self._silent_since = self._silent_since or time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await self._ask()
        except (TimeoutError, BlockingIOError):  # BlockingIOError: the backlog is full, as the worker does not accept
            self._disconnect()
            self._failure = None
            return
        except Failure as failure:
            self._disconnect()
            self._failure = failure
            if failure.state == "down":
                self._pid = 0
        else:
            self._failure = None
            self._take(answer)
        self._silent_since = None

    async def _ask(self) -> Answer:
        """Raises Failure, TimeoutError, BlockingIOError."""
        try:
            if self._streams is not None:
                try:
                    return await _converse(*self._streams)
                except (ConnectionError, EOFError):
                    self._disconnect()  # the worker may have restarted
            self._streams = await self._connect()
            return await _converse(*self._streams)
        except (TimeoutError, BlockingIOError):
            raise
        except (OSError, EOFError) as exc:
            raise explain(exc) from None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # Without the event loop, which does not notice a full backlog.
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(str(self._path))
            self._pid = process.behind(connection)
            return await asyncio.open_unix_connection(sock=connection)
        except BaseException:
            connection.close()
            raise

    def _take(self, answer: Answer) -> None:
        before, self._answer = self._answer, answer
        self._rates = None
        if before is None or (before.pid, before.started_at) != (answer.pid, answer.started_at):
            self._lag_s = None
        elif before.counters is not None and answer.counters is not None:
            self._rates = rates.between(before.counters, answer.counters)
        if self._rates is not None:
            worst = rates.worst(self._rates.event_loop_lag)
            # A worker whose loop hangs has no new measurement.
            self._lag_s = self._lag_s if worst is None else worst

    def _disconnect(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    """Raises Failure, EOFError, OSError."""
    writer.write(_COMMAND)
    try:
        line = await reader.readline()
    except ValueError:
        raise Failure("fault", "answers with a line that has no end") from None
    if not line.endswith(b"\n"):
        raise EOFError
    try:
        said = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Failure("fault", "answers what this release does not understand") from None
    if said.result is None:
        raise Failure("fault", f"refuses: {said.error.message if said.error else 'it does not say why'}")
    return said.result
