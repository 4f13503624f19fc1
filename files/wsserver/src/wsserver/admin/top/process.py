# SPDX-License-Identifier: MIT
"""The process of a worker, as the kernel reports it, also if the worker does not answer."""

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
    """`started` distinguishes processes with the same pid.

    `cpu_s`: the CPU seconds used until `at`.
    """

    pid: int
    started: int
    at: float
    cpu_s: float
    memory_bytes: int

    def cpu_since(self, before: Process | None) -> float | None:
        """The CPU use since `before`, 1.0 for one whole CPU.

        None if `before` is of another process.
        """
        if before is None or (before.pid, before.started) != (self.pid, self.started) or before.at == self.at:
            return None
        return (self.cpu_s - before.cpu_s) / (self.at - before.at)


def behind(connection: socket.socket) -> int:
    """The process that listens at the other end of a Unix socket; 0 if it is not visible."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])


def look(pid: int) -> Process | None:
    """None if there is no such process, or it is hidden."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The fields after the name, from field 3 of proc(5). The name may have spaces and brackets.
    fields = text.rpartition(")")[2].split()
    return Process(
        pid=pid,
        started=int(fields[19]),
        at=time.monotonic(),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        memory_bytes=int(fields[21]) * _PAGE_BYTES,
    )
