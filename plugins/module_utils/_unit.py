# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Reads the state of a worker's unit from systemd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Like AnsibleModule.run_command: returns a program's exit status, standard output and standard
# error.
Run = Callable[[list[str]], tuple[int, str, str]]

_PROPERTIES = [
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "Result",
    "MainPID",
    "NRestarts",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecMainStartTimestamp",
    "Job",
]
_EXITED = "1"
_MEANINGS = {"2": ": it refuses its settings", "203": ": its program cannot be started"}
_ENDS = {
    "timeout": "did not start or stop in time",
    "watchdog": "hung, and its watchdog ended it",
    "oom-kill": "was killed because memory ran out",
    "protocol": "ended before it was ready",
    "resources": "could not be set up: a file that its unit needs is missing",
}


class SystemdError(Exception):
    """systemd cannot be asked."""


@dataclass(frozen=True)
class Unit:
    """The state of a unit. `pid` is None without a main process.

    `started_at`: the start of the main process, in whole Unix seconds. `last_started_at`: the start
    of the last process, even if it has ended; None without any. `active`, `sub`: systemd's
    ActiveState and SubState. `enabled`: whether the unit starts at boot. `restarts`: automatic
    restarts by systemd since the last start. `job`: whether a start or stop is queued or running.
    `end`: a predicate that says how the last process ended; empty if none has.
    """

    exists: bool
    active: str
    sub: str
    enabled: bool
    pid: int | None
    started_at: float | None
    last_started_at: float | None
    restarts: int
    job: bool
    end: str

    @property
    def serves(self) -> bool:
        """Whether the process has reported that it is ready, and is not stopping."""
        return self.active in ("active", "reloading")


def show(run: Run, names: list[str]) -> list[Unit]:
    """Return one Unit for each name, in the same order. Raises SystemdError."""
    command = ["systemctl", "show", "--timestamp=unix", f"--property={','.join(_PROPERTIES)}", *names]
    status, output, errors = run(command)
    if status != 0:
        raise SystemdError(f"systemctl show failed: {errors.strip() or status}")
    found = [parse(text) for text in output.strip().split("\n\n")]
    if len(found) != len(names):
        raise SystemdError(f"systemctl show described {len(found)} units instead of {len(names)}")
    return found


def parse(text: str) -> Unit:
    """Parse one unit's paragraph of `systemctl show`."""
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    pid = int(said.get("MainPID") or 0)
    stamp = said.get("ExecMainStartTimestamp", "").removeprefix("@")
    last_started_at = float(stamp) if stamp.isdecimal() else None
    return Unit(
        exists=said.get("LoadState") == "loaded",
        active=said.get("ActiveState", "unknown"),
        sub=said.get("SubState", "unknown"),
        enabled=said.get("UnitFileState") == "enabled",
        pid=pid or None,
        started_at=last_started_at if pid else None,
        last_started_at=last_started_at,
        restarts=int(said.get("NRestarts") or 0),
        job=said.get("Job", "0") not in ("", "0"),
        end=_end(said.get("Result", ""), said.get("ExecMainCode", ""), said.get("ExecMainStatus", "")),
    )


def _end(result: str, code: str, status: str) -> str:
    if result in _ENDS:
        return _ENDS[result]
    if code == _EXITED:
        return f"ended with exit status {status}{_MEANINGS.get(status, '')}"
    if code not in ("", "0"):
        return f"was ended by signal {status}"
    return "" if result in ("", "success") else f"failed ({result})"
