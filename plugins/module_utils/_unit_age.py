# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Checks whether a unit's process has read its current files, and plans a restart if not."""

from __future__ import annotations

import calendar
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Like AnsibleModule.run_command: returns a program's exit status, standard output and standard
# error.
Run = Callable[[list[str]], tuple[int, str, str]]

_PROPERTIES = ["LoadState", "ActiveState", "NeedDaemonReload", "MainPID", "ExecMainStartTimestamp"]
_RUNNING = ("active", "reloading", "activating")
# The states that `systemctl enable` changes. Other states, like static, have nothing to enable.
_TO_ENABLE = ("disabled", "enabled-runtime", "linked", "linked-runtime")


class SystemdError(Exception):
    """systemctl failed; the text names the cause."""


@dataclass(frozen=True)
class Unit:
    """The state of one unit in systemd.

    `stale`: the unit's files have changed since systemd loaded them. `started_ns`: the start of the
    main process as a Unix time, with systemd's resolution (microseconds); None without a process.
    """

    exists: bool
    running: bool
    stale: bool
    started_ns: int | None


@dataclass(frozen=True)
class Plan:
    """`action`: the verb of systemctl, or None.

    `newer`: the files that the process has not read.
    """

    reload_systemd: bool
    enable: bool
    action: str | None
    newer: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return self.enable or self.action is not None


def show(run: Run, name: str) -> Unit:
    """Ask systemd about the unit. Raises SystemdError."""
    options = ["--timestamp=us+utc", f"--property={','.join(_PROPERTIES)}"]
    return parse(systemctl(run, "show", *options, "--", name))


def enabled(run: Run, name: str) -> bool:
    """Whether the unit starts at boot, or has nothing to enable."""
    # The exit status is not 0 for several states that are not errors.
    _status, output, _errors = run(["systemctl", "is-enabled", "--", name])
    return output.strip() not in _TO_ENABLE


def systemctl(run: Run, *arguments: str) -> str:
    """Run systemctl and return its output. Raises SystemdError."""
    status, output, errors = run(["systemctl", *arguments])
    if status != 0:
        raise SystemdError(f"systemctl {arguments[0]} failed: {errors.strip() or status}")
    return output


def parse(text: str) -> Unit:
    """Read the output of `systemctl show`. Raises SystemdError."""
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    has_process = said.get("MainPID", "0") not in ("", "0")
    return Unit(
        exists=said.get("LoadState") not in (None, "", "not-found"),
        running=said.get("ActiveState") == "active" or (has_process and said.get("ActiveState") in _RUNNING),
        stale=said.get("NeedDaemonReload") == "yes",
        started_ns=_nanoseconds(said.get("ExecMainStartTimestamp", "")) if has_process else None,
    )


def _nanoseconds(timestamp: str) -> int | None:
    """Unix time of a timestamp like `Mon 2026-11-30 17:06:48.123456 UTC`, in integers: a float is
    not exact enough.
    """
    if not timestamp:
        return None
    try:
        _weekday, day, clock, _zone = timestamp.split(" ")
        clock, microseconds = clock.split(".")
        moment = time.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S")
        return (calendar.timegm(moment) * 1_000_000 + int(microseconds)) * 1000
    except ValueError:
        raise SystemdError(f"systemctl show has a timestamp of an unknown form: {timestamp!r}") from None


def newer(paths: Iterable[str], than_ns: int) -> list[str]:
    """Return the files that were written later.

    A directory and everything inside count. A missing path does not.
    """
    return sorted({str(path) for path in _all(paths) if _written_ns(path) > than_ns})


def _all(paths: Iterable[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        yield path
        yield from path.rglob("*")


def _written_ns(path: Path) -> int:
    """The time when the content was written, of a link and of its target."""
    times = [0]
    with contextlib.suppress(FileNotFoundError):
        times.append(path.lstat().st_mtime_ns)
        times.append(path.stat().st_mtime_ns)
    return max(times)


def plan(unit: Unit, is_enabled: bool, paths: Iterable[str]) -> Plan:
    """Plan how to bring the unit up to date. Without a known start, no files are compared.

    Raises OSError.
    """
    if not unit.running:
        return Plan(reload_systemd=unit.stale, enable=not is_enabled, action="start")
    found = newer(paths, unit.started_ns) if unit.started_ns is not None else []
    # systemd started the process from the loaded files, so the process does not use the changed
    # ones.
    restart = unit.stale or bool(found)
    return Plan(unit.stale, not is_enabled, "restart" if restart else None, tuple(found))
