# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Finds the programs that listen on TCP ports of this host, and their systemd units, from /proc."""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"


@dataclass(frozen=True)
class Listener:
    """A listener.

    If its process is not visible, like the kernel's own, `pid` is 0 and the names are empty.
    """

    port: int
    pid: int = 0
    program: str = ""
    unit: str = ""


def held(wanted: Mapping[str, Sequence[int]], proc: Path = _PROC) -> list[Listener]:
    """Return listeners on wanted ports that belong to other units.

    `wanted` has the ports of each unit or pattern of units.
    """
    patterns: dict[int, list[str]] = {}
    for pattern, ports in wanted.items():
        for port in ports:
            patterns.setdefault(int(port), []).append(pattern)
    return sorted(
        {
            listener
            for listener in _listeners(set(patterns), proc)
            if not any(fnmatch.fnmatchcase(listener.unit, pattern) for pattern in patterns[listener.port])
        },
        key=lambda listener: (listener.port, listener.pid),
    )


def _listeners(ports: set[int], proc: Path) -> Iterator[Listener]:
    inodes = dict(_sockets(ports, proc))
    if not inodes:
        return
    seen = set()
    for pid, inode in _descriptors(proc):
        if inode in inodes:
            seen.add(inode)
            yield Listener(inodes[inode], pid, _program(proc, pid), _unit(proc, pid))
    for inode in inodes.keys() - seen:
        yield Listener(inodes[inode])


def _sockets(ports: set[int], proc: Path) -> Iterator[tuple[str, int]]:
    """Yield the inode and port of each listening socket."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in (proc / "net" / name).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                port = int(fields[1].rpartition(":")[2], 16)
                if fields[3] == _LISTEN and port in ports:
                    yield fields[9], port


def _descriptors(proc: Path) -> Iterator[tuple[int, str]]:
    """Yield each process with the inode of each of its sockets.

    Skips ended and hidden processes.
    """
    for directory in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (directory / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                        yield int(directory.name), match[1]


def _program(proc: Path, pid: int) -> str:
    with contextlib.suppress(OSError):
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _unit(proc: Path, pid: int) -> str:
    """Return the innermost unit in the process's control groups."""
    with contextlib.suppress(OSError):
        units = re.findall(r"/([^/\s]+\.(?:service|scope))", (proc / str(pid) / "cgroup").read_text(encoding="utf-8"))
        return units[-1] if units else ""
    return ""
