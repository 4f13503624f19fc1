# SPDX-License-Identifier: MIT
"""What the kernel knows of a worker's process, also of one that does not answer."""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True)
class Process:
    """`started`: in the kernel's own unit; a pid may have been another's before. `cpu_s`: used so far, by `at`."""

    pid: int
    started: int
    at: float
    cpu_s: float
    memory_bytes: int

    def cpu_since(self, before: Process | None) -> float | None:
        """Of one CPU, 1.0 is all of it. None without an earlier look at the same process."""
        if before is None or (before.pid, before.started) != (self.pid, self.started) or before.at == self.at:
            return None
        return (self.cpu_s - before.cpu_s) / (self.at - before.at)


def behind(connection: socket.socket) -> int:
    """The process that listens at the other end of a Unix socket; 0 where it cannot be seen from here."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])


def look(pid: int) -> Process | None:
    """None if there is no such process, or it is hidden."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # What follows the name, which may have spaces and brackets in it: fields 3 and on of proc(5).
    fields = text.rpartition(")")[2].split()
    return Process(
        pid=pid,
        started=int(fields[19]),
        at=time.monotonic(),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        memory_bytes=int(fields[21]) * _PAGE_BYTES,
    )
