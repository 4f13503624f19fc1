# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Decides which hosts are taken out of the upstream, from its input and the time, without I/O.

A dead host does not answer packets, so each new client that nginx sends there waits for the connect
timeout. A refused connection or a 503 costs nothing, because nginx tries the next worker at once.
Neither takes a host out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .polling import Answer

# With one poll per second, a dead host is out within 5 s. Two lost seconds take no host out.
SILENT_POLLS = 3
READY_POLLS = 3

# Each reload leaves processes behind for as long as they have clients. Returning a host is less
# urgent than taking a dead host out.
PERIOD_S = 600.0
RELOADS = 8
RELOADS_TO_BRING_BACK = 6


class Server(Protocol):
    """The part of `_upstream.Server` that the policy reads."""

    @property
    def host(self) -> str: ...

    @property
    def down_by(self) -> tuple[str, ...]: ...


class Policy:
    """Counts answers and reloads, and decides. `name` owns the marks; `clock` returns seconds."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._silent: Counter[str] = Counter()
        self._ready: Counter[str] = Counter()
        self._reloads: deque[float] = deque()

    def reloaded(self) -> None:
        """Count a reload of nginx, whether or not it succeeded."""
        self._reloads.append(self._clock())

    def record(self, answers: Mapping[str, Answer]) -> None:
        """Count consecutive answers of each host. `answers` has one poll's answers by host."""
        self._silent = Counter({host: self._silent[host] + 1 for host in answers if answers[host] is Answer.SILENT})
        self._ready = Counter({host: self._ready[host] + 1 for host in answers if answers[host] is Answer.READY})

    def out(self, servers: Sequence[Server]) -> set[str]:
        """Return the hosts to keep out of the upstream. At least one server always stays up."""
        held = {server.host for server in servers if self._name in server.down_by}
        not_out = {server.host for server in servers if not self._others(server)}
        reloads = self._recent_reloads()
        back = {host for host in held if self._ready[host] >= READY_POLLS and reloads < RELOADS_TO_BRING_BACK}
        # A host that an operator took out may reboot without causing a reload.
        dead = {host for host in not_out if self._silent[host] >= SILENT_POLLS and reloads < RELOADS}
        for out in ((held - back) | dead, held - back):
            if not_out - out:
                return out
        return set()

    def _others(self, server: Server) -> set[str]:
        return set(server.down_by) - {self._name}

    def _recent_reloads(self) -> int:
        while self._reloads and self._reloads[0] <= self._clock() - PERIOD_S:
            self._reloads.popleft()
        return len(self._reloads)
