# SPDX-License-Identifier: MIT
"""`ws-server ctl`: the command line for the control sockets of this host's workers."""

from __future__ import annotations

import argparse
import json
import math
import os
import pwd
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wsserver.admin.failure import explain
from wsserver.status import NEARLY_FULL

RUN = Path("/run/ws-server")
# The role makes a link for each worker that should run on this host.
INSTANCES = Path("/opt/ws-server/instances")

_ANSWER_S = 5.0
_DRAIN_TIMEOUT_S = 60.0
_INTERVAL_S = 2.0
_INTERVALS_S = (0.5, 60.0)


class CannotAsk(Exception):
    """A worker did not carry out a command. The text is one sentence for the operator.

    `state`: the failure in a word, as the table shows it.
    """

    def __init__(self, text: str, state: str = "fault") -> None:
        super().__init__(text)
        self.state = state


# Each worker's result, or why there is none.
Answers = dict[str, dict[str, Any] | CannotAsk]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Without a verb, print the status.
    parser.set_defaults(ask=_status, instance=None, socket=None, json=False)
    verbs = parser.add_subparsers(metavar="VERB", dest="verb")

    def verb(
        name: str, help: str, ask: Callable[[argparse.Namespace], int], json: bool = True
    ) -> argparse.ArgumentParser:
        subparser = verbs.add_parser(name, help=help, description=help)
        subparser.set_defaults(ask=ask)
        subparser.add_argument("--instance", help="the worker, for example 80", metavar="NAME")
        subparser.add_argument(
            "--socket", type=Path, help="its control socket, if it is not in the usual place", metavar="PATH"
        )
        if json:
            subparser.add_argument("--json", action="store_true", help="print JSON")
        return subparser

    def by(subparser: argparse.ArgumentParser) -> None:
        subparser.add_argument("--by", default=_operator(), help="the holder of the drain (default: %(default)s)")

    verb("status", "print the state of the workers of this host (also without a VERB)", _status)
    top = verb("top", "show their state, rates and latencies live; q or Ctrl-C ends it", _top, json=False)
    help = "seconds between two updates (default: %(default)g)"
    top.add_argument("--interval", type=_interval, default=_INTERVAL_S, help=help, metavar="S")
    help = "print the values after two updates, and end; the default without a terminal"
    top.add_argument("--once", action="store_true", help=help)
    drain = verb("drain", "send a worker's clients away and refuse new ones; the worker runs on", _drain)
    by(drain)
    drain.add_argument("--window", type=float, help="seconds over which to spread the clients", metavar="S")
    drain.add_argument(
        "--timeout", type=float, default=_DRAIN_TIMEOUT_S, help="seconds to wait (default: %(default)g)", metavar="S"
    )
    undrain = verb("undrain", "let clients in again", _undrain)
    by(undrain)
    undrain.add_argument("--force", action="store_true", help="end the drains of all other holders as well")
    kick = verb("kick", "close connections, on all workers of this host or on one", _kick)
    whom = kick.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", help="all connections of this user")
    whom.add_argument("--connection", help="the connection with this id, as in the log", metavar="ID")
    kick.add_argument("--reason", help="the reason that the client gets")


def run(arguments: argparse.Namespace) -> int:
    try:
        return int(arguments.ask(arguments))
    except CannotAsk as exc:
        print(f"ws-server: {exc}", file=sys.stderr)
        return 1


# The verbs.


def _status(arguments: argparse.Namespace) -> int:
    answers = _ask_each(_expected_sockets(arguments), {"cmd": "status"})
    if arguments.json:
        print(json.dumps(_rows(answers), indent=2))
    else:
        _print_table(answers)
    return 1 if any(isinstance(answer, CannotAsk) for answer in answers.values()) else 0


def _top(arguments: argparse.Namespace) -> int:
    # Imported here, since workers run this program as well and do not need top.
    from wsserver.admin.top import command

    return command.run(
        lambda: {_name(path): path for path in _expected_sockets(arguments)}, arguments.interval, arguments.once
    )


def _drain(arguments: argparse.Namespace) -> int:
    path = _one_socket(arguments)
    command: dict[str, Any] = {"cmd": "drain", "by": arguments.by}
    if arguments.window is not None:
        command["window_s"] = arguments.window
    start = time.monotonic()
    status: dict[str, Any] = {}
    shown = -1
    for status, final in _ask(path, command, start + arguments.timeout):
        seconds = int(time.monotonic() - start)
        if not arguments.json and not final and seconds > shown:
            shown = seconds
            print(f"{_name(path)}: {status['connections']} connections left, {seconds} s", flush=True)
    if arguments.json:
        print(json.dumps(status))
    else:
        left = f", {status['connections']} connections left" if status["connections"] else ""
        print(f"{_name(path)}: {status['state']}{left}, by {', '.join(status['drained_by'])}")
    return 0 if status["state"] == "drained" else 1


def _undrain(arguments: argparse.Namespace) -> int:
    path = _one_socket(arguments)
    status = _result(path, {"cmd": "undrain", "by": arguments.by, "force": arguments.force})
    if arguments.json:
        print(json.dumps(status))
    else:
        still = f", by {', '.join(status['drained_by'])}" if status["drained_by"] else ""
        print(f"{_name(path)}: {status['state']}{still}")
    return 1 if status["drained_by"] else 0


def _kick(arguments: argparse.Namespace) -> int:
    command: dict[str, Any] = {"cmd": "kick"}
    for field in ("user", "connection", "reason"):
        if getattr(arguments, field) is not None:
            command[field] = getattr(arguments, field)
    answers = _ask_each(_sockets(arguments), command)
    for name, answer in answers.items():
        if isinstance(answer, CannotAsk):
            print(f"ws-server: {answer}", file=sys.stderr)
        elif not arguments.json:
            print(f"{name}: {answer['kicked']} closed")
    if arguments.json:
        print(json.dumps(_rows(answers)))
    closed = [0 if isinstance(answer, CannotAsk) else answer["kicked"] for answer in answers.values()]
    return 0 if any(closed) and not any(isinstance(answer, CannotAsk) for answer in answers.values()) else 1


# Which workers.


def _sockets(arguments: argparse.Namespace) -> list[Path]:
    """The socket of the given worker, else of all workers that run on this host."""
    if arguments.socket is not None or arguments.instance is not None:
        return [_one_socket(arguments)]
    found = sorted(RUN.glob("*/control.sock"), key=_natural)
    if not found:
        raise CannotAsk(f"no worker runs on this host: there is no {RUN}/*/control.sock")
    return found


def _expected_sockets(arguments: argparse.Namespace) -> list[Path]:
    """As `_sockets`, and the sockets of workers that should run."""
    if arguments.socket is not None or arguments.instance is not None:
        return [_one_socket(arguments)]
    expected = {*RUN.glob("*/control.sock"), *(RUN / link.name / "control.sock" for link in INSTANCES.glob("*"))}
    if not expected:
        raise CannotAsk(f"no worker runs on this host: there is no {RUN}/*/control.sock")
    return sorted(expected, key=_natural)


def _one_socket(arguments: argparse.Namespace) -> Path:
    if arguments.socket is not None:
        return Path(arguments.socket)
    if arguments.instance is None:
        raise CannotAsk("say which worker: --instance, for example --instance 80")
    return RUN / str(arguments.instance) / "control.sock"


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that has 9 before 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.parent.name)]


def _name(path: Path) -> str:
    return path.parent.name if path.parent.parent == RUN else str(path)


def _interval(text: str) -> float:
    least, most = _INTERVALS_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not least <= seconds <= most:  # false for NaN
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from {least:g} to {most:g}")
    return seconds


def _operator() -> str:
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# The conversation.


def _ask_each(paths: list[Path], command: dict[str, Any]) -> Answers:
    """Ask all workers at once: a worker that hangs does not delay the others."""

    def ask(path: Path) -> dict[str, Any] | CannotAsk:
        try:
            return _result(path, command)
        except CannotAsk as exc:
            return exc

    with ThreadPoolExecutor(len(paths)) as threads:
        return dict(zip(map(_name, paths), threads.map(ask, paths), strict=True))


def _result(path: Path, command: dict[str, Any]) -> dict[str, Any]:
    [(result, _final)] = _ask(path, command, time.monotonic() + _ANSWER_S)
    return result


def _ask(path: Path, command: dict[str, Any], deadline: float) -> Iterator[tuple[dict[str, Any], bool]]:
    """The worker's answers, each with whether it is the last. Raises CannotAsk."""
    heard = False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_S)
            connection.connect(str(path))
            connection.sendall(json.dumps(command).encode() + b"\n")
            with connection.makefile("rb") as answers:
                final = False
                while not final:
                    connection.settimeout(min(max(deadline - time.monotonic(), 0.001), _ANSWER_S))
                    answer = json.loads(answers.readline() or "null")
                    if answer is None:
                        raise _cannot(path, "stopped before it was done")
                    if "error" in answer:
                        raise _cannot(path, f"refuses: {answer['error']['message']}")
                    final = "result" in answer
                    yield answer["result" if final else "progress"], final
                    heard = True
    except TimeoutError:
        if heard and time.monotonic() >= deadline:
            raise _cannot(path, "is not done in time, and continues") from None
        raise _cannot(path, "does not answer", "no answer") from None
    except OSError as exc:
        failure = explain(exc)
        raise _cannot(path, str(failure), failure.state) from None
    except ValueError as exc:
        raise _cannot(path, f"cannot be asked: {exc}") from None


def _cannot(path: Path, why: str, state: str = "fault") -> CannotAsk:
    return CannotAsk(f"worker {_name(path)} {why} ({path})", state)


# Output.


_HEAD = ["WORKER", "STATE", "CONNECTIONS", "ROOMS", "BROKER", "ARCHIVE", "UPTIME", "VERSION", "PID"]


def _rows(answers: Answers) -> list[dict[str, Any]]:
    """The answers as JSON has them."""
    return [
        {"worker": name, **({"error": str(answer)} if isinstance(answer, CannotAsk) else answer)}
        for name, answer in answers.items()
    ]


def _print_table(answers: Answers) -> None:
    rows = [_HEAD, *([name, *_cells(answer)] for name, answer in answers.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for answer in answers.values():
        if isinstance(answer, CannotAsk):
            print(f"ws-server: {answer}", file=sys.stderr)


def _cells(status: dict[str, Any] | CannotAsk) -> list[str]:
    if isinstance(status, CannotAsk):
        return [status.state, *["-"] * (len(_HEAD) - 2)]
    by = f" by {', '.join(status['drained_by'])}" if status["drained_by"] else ""
    # A worker of the release before does not tell.
    scarce = ", no descriptors" if status.get("descriptors_scarce") else ""
    archive = status["archive"]
    return [
        status["state"].replace("_", " ") + by + scarce,
        str(status["connections"]),
        str(status["rooms"]),
        _broker(status["broker"]),
        "-" if archive is None else f"{archive['lag_s']:.1f} s behind" if archive["available"] else "unavailable",
        _duration(status["uptime_s"]),
        status["version"],
        str(status["pid"]),
    ]


def _broker(broker: dict[str, Any]) -> str:
    # A worker of the release before tells neither of both.
    if broker.get("disk_full", False):
        return "disk full"
    if not broker["available"]:
        return "unavailable"
    fullness = broker.get("fullness", 0.0)
    return f"{fullness:.0%} full" if fullness >= NEARLY_FULL else "available"


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{int(seconds)} s"
