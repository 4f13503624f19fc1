# SPDX-License-Identifier: MIT
"""The control socket: a Unix socket on which this host's operator and its programs control one
worker.

A command is one JSON object on a line. The answer is any number of lines with `progress`, then a
line with `result` or `error`. All users that may open the socket may send all commands. See
`status` for the fields of a status; only the command `status` returns `counters`. A release only
adds commands and fields, since both ends may be one release apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta, Struct

from wsserver.status import Counters, Status
from wsserver.telemetry.logs import log
from wsserver.transport.drain import DrainHeldByOthers

_MODE = 0o660
_LINE_BYTES = 65536
# A suspended program must not hold its connection for ever.
_IDLE_S = 300
_WRITE_S = 10
_PROGRESS_S = 0.5
_FINISH_S = 2
# The most that a close frame can hold.
_REASON_BYTES = 123

_Name = Annotated[str, Meta(min_length=1, max_length=128)]


class _Status(Struct, tag_field="cmd", tag="status"):
    pass


class _Drain(Struct, tag_field="cmd", tag="drain"):
    by: _Name
    window_s: Annotated[float, Meta(ge=0, le=600)] | None = None


class _Undrain(Struct, tag_field="cmd", tag="undrain"):
    by: _Name
    force: bool = False


class _Kick(Struct, tag_field="cmd", tag="kick"):
    user: _Name | None = None
    connection: _Name | None = None
    reason: str = "disconnected by the operator"


_Command = _Status | _Drain | _Undrain | _Kick


class Controlled(Protocol):
    """The worker, as the control socket sees it."""

    def status(self) -> Status: ...

    def counters(self) -> Counters: ...

    def drain(self, by: str, window_s: float | None) -> asyncio.Task[None]:
        """Start a drain, or join a running drain; the process runs on. See `WorkerDrain.drain`."""

    def undrain(self, by: str, force: bool) -> None:
        """End a drain. Raises DrainHeldByOthers. See `WorkerDrain.undrain`."""

    def kick(self, user: str | None, connection: str | None, reason: str) -> int:
        """Close this worker's connections of a user, or a connection by its id.

        Returns their number.
        """


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_Say = Callable[[object], Awaitable[None]]


class ControlSocket:
    def __init__(self, path: Path, controlled: Controlled) -> None:
        self._path = path
        self._controlled = controlled
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._idle: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Serve the socket. Raises OSError, also if another process serves the socket."""
        listener = _listen(self._path)
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._converse, sock=listener, limit=_LINE_BYTES)

    async def stop(self) -> None:
        """Stop serving. Running commands get a short time to finish."""
        if self._server is None:
            return
        self._server.close()
        for conversation in self._idle:
            conversation.cancel()
        if self._busy:
            _done, late = await asyncio.wait(self._busy, timeout=_FINISH_S)
            for conversation in late:
                conversation.cancel()
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:  # not a successor's socket
                self._path.unlink()

    # One connection.

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None

        async def say(answer: object) -> None:
            writer.write(msgspec.json.encode(answer) + b"\n")
            async with asyncio.timeout(_WRITE_S):
                await writer.drain()

        try:
            while self._server is not None and self._server.is_serving():
                self._idle.add(task)
                line = await _line(reader)
                self._idle.discard(task)
                if not line:
                    break
                self._busy.add(task)
                await self._answer(line, say)
                self._busy.discard(task)
        except _Refused as refused:
            with contextlib.suppress(TimeoutError, ConnectionError):
                await say(_error(refused.code, str(refused)))
        except TimeoutError:
            writer.transport.abort()  # else unread data would keep it open
        except ConnectionError:
            pass
        finally:
            self._idle.discard(task)
            self._busy.discard(task)
            writer.close()

    async def _answer(self, line: bytes, say: _Say) -> None:
        answer: object
        try:
            answer = {"result": await self._carry_out(_decode(line), say)}
        except _Refused as refused:
            answer = _error(refused.code, str(refused))
        except DrainHeldByOthers as exc:
            answer = _error("not_yours", str(exc))
        except (TimeoutError, ConnectionError):
            raise  # the caller is gone
        except Exception:
            log.exception("control_failed")
            answer = _error("internal", "an internal error of the worker, see its log")
        await say(answer)

    async def _carry_out(self, command: _Command, say: _Say) -> object:
        match command:
            case _Status():
                return msgspec.structs.replace(self._controlled.status(), counters=self._controlled.counters())
            case _Drain(by, window_s):
                return await self._drain(by, window_s, say)
            case _Undrain(by, force):
                self._controlled.undrain(by, force)
                return self._controlled.status()
            case _Kick(user, connection, reason):
                if (user is None) == (connection is None):
                    raise _Refused("bad_command", "user, connection: one of them")
                if len(reason.encode()) > _REASON_BYTES:
                    raise _Refused("bad_command", f"reason: at most {_REASON_BYTES} bytes of UTF-8")
                return {"kicked": self._controlled.kick(user, connection, reason)}

    async def _drain(self, by: str, window_s: float | None, say: _Say) -> Status:
        """Start or join a drain, and report progress.

        The drain continues if the caller hangs up.
        """
        draining = self._controlled.drain(by, window_s)
        while not draining.done():
            await say({"progress": self._controlled.status()})
            await asyncio.wait({draining}, timeout=_PROGRESS_S)
        if draining.cancelled():
            raise _Refused("undrained", "another operator ended the drain")
        return self._controlled.status()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line, empty at the end. Raises _Refused, TimeoutError, ConnectionError."""
    try:
        async with asyncio.timeout(_IDLE_S):
            return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as exc:
        return exc.partial.strip()
    except asyncio.LimitOverrunError:
        raise _Refused("bad_command", f"a line has at most {_LINE_BYTES} bytes") from None


def _decode(line: bytes) -> _Command:
    """The command in a line. Ignores unknown fields. Raises _Refused."""
    try:
        command: _Command = msgspec.json.decode(line, type=_Command)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _Refused("bad_command", str(exc)) from None
    except RecursionError:
        raise _Refused("bad_command", "nested too deeply") from None
    return command


def _error(code: str, message: str) -> dict[str, dict[str, str]]:
    return {"error": {"code": code, "message": message}}


# The socket file.


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # If two workers start here at once, neither may remove the other's new socket as dead.
        with _locked(path.parent):
            _remove_dead(path)
            mask = os.umask(0o777 & ~_MODE)
            try:
                listener.bind(str(path))
            finally:
                os.umask(mask)
            listener.listen()
    except OSError as exc:
        listener.close()
        raise OSError(exc.errno, f"cannot listen: {exc.strerror or exc}", str(path)) from exc
    return listener


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_dead(path: Path) -> None:
    """Remove the socket of a dead process.

    Raises OSError if the process is alive, or if this is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "it exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # alive, and busy
    raise OSError(errno.EADDRINUSE, "another process serves it")
