# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The client of a worker's control socket: one JSON object per line, answered by lines."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

_ANSWER_S = 5.0
# A status has about a thousand bytes.
_LINE_BYTES = 65536


class ControlError(Exception):
    """The worker did not carry out a command. The text is a predicate that follows "worker 80"."""


class NotServedError(ControlError):
    """No process serves the socket."""


class UnansweredError(ControlError):
    """A process serves the socket and did not answer in time: the process may be busy or hung."""


@dataclass(frozen=True)
class Status:
    """The status that a worker reports. `started_at` is a Unix time."""

    version: str
    pid: int
    started_at: float
    uptime_s: float
    state: str
    drained_by: list[str]
    connections: int
    rooms: int
    broker: dict[str, Any]
    archive: dict[str, Any] | None


_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "list[str]": list,
    "dict[str, Any]": dict,
    "dict[str, Any] | None": (dict, type(None)),
}


class Control:
    """Sends commands to one worker. `answer_s` limits how long an answer may take."""

    def __init__(self, path: str, answer_s: float = _ANSWER_S) -> None:
        self.path = path
        self._answer_s = answer_s

    def status(self) -> Status:
        """Return the worker's status. Raises ControlError, like every method here."""
        return self._ask({"cmd": "status"})

    def drain(self, by: str, window_s: float | None) -> Status:
        """Begin or join a drain, which continues when this returns.

        None: the worker's own window.
        """
        return self._ask(_drain(by, window_s))

    def undrain(self, by: str) -> Status:
        return self._ask({"cmd": "undrain", "by": by})

    def hurry(self, by: str) -> Status:
        """Restart the drain with no window. A drain shared with others continues unchanged.

        The worker reads both commands at once, so it lets no client in between them.
        """
        return self._ask({"cmd": "undrain", "by": by}, _drain(by, 0.0))

    def _ask(self, *commands: dict[str, Any]) -> Status:
        """Return the first line of the answer to the last command.

        A drain answers when it begins.
        """
        deadline = time.monotonic() + self._answer_s
        request = "".join(json.dumps(command) + "\n" for command in commands).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._answer_s)
                connection.connect(self.path)
                connection.sendall(request)
                answers = _lines(connection, deadline)
                for _command in commands:
                    status = _status(next(answers))
                return status
        except (TimeoutError, BlockingIOError):  # BlockingIOError: no process empties the full queue
            raise UnansweredError(f"does not answer at {self.path} within {self._answer_s:g} s") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotServedError(f"has no process that serves {self.path}") from None
        except PermissionError:
            raise ControlError(f"lets only root and its own group use {self.path}: run this task with become") from None
        except OSError as error:
            raise ControlError(f"cannot be asked at {self.path}: {error}") from None


def _drain(by: str, window_s: float | None) -> dict[str, Any]:
    command: dict[str, Any] = {"cmd": "drain", "by": by}
    return command if window_s is None else command | {"window_s": window_s}


def _lines(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    """Yield lines until the deadline, however slowly they arrive. Raises TimeoutError."""
    held = b""
    while True:
        line, end, rest = held.partition(b"\n")
        if end:
            held = rest
            yield line
            continue
        if len(held) > _LINE_BYTES:
            raise ControlError("answers with a line that has no end")
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        received = connection.recv(_LINE_BYTES)
        if not received:
            raise NotServedError("hung up without an answer")
        held += received
        if time.monotonic() >= deadline:
            raise TimeoutError


def _status(line: bytes) -> Status:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise _not_understood(line)
    if isinstance(answer.get("error"), dict):
        raise ControlError(f"refuses: {answer['error'].get('message')}")
    said = answer.get("result", answer.get("progress"))
    if not isinstance(said, dict):
        raise _not_understood(line)
    found: dict[str, Any] = {field.name: said.get(field.name) for field in fields(Status)}
    if not all(isinstance(found[field.name], _KINDS[str(field.type)]) for field in fields(Status)):
        raise _not_understood(line)
    return Status(**found)


def _not_understood(line: bytes) -> ControlError:
    return ControlError(f"answers what this collection does not understand: {line[:200].decode(errors='replace')}")
