# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Which hosts are to be out. Only decides: what it knows is what it is told, and the time.

A dead host is one that swallows packets: each new client that nginx sends there waits for the connect timeout. A refused connection
or a 503 costs nothing, since nginx passes over it at once; so neither is a reason.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .polling import Answer

# At one poll a second a dead host is out within 5 s, and two lost seconds do not count as death.
SILENT_POLLS = 3
READY_POLLS = 3

# Each reload leaves processes behind, for as long as they have clients. To bring a host back is less urgent than to take one out.
PERIOD_S = 600.0
RELOADS = 8
RELOADS_TO_BRING_BACK = 6


class Server(Protocol):
    """As _upstream has it."""

    @property
    def host(self) -> str: ...

    @property
    def down_by(self) -> tuple[str, ...]: ...


class Policy:
    """`name`: under which hosts are held out; `clock`: seconds."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._silent: Counter[str] = Counter()
        self._ready: Counter[str] = Counter()
        self._reloads: deque[float] = deque()

    def reloaded(self) -> None:
        """nginx was told of a decision, whether or not it liked it."""
        self._reloads.append(self._clock())

    def heard(self, answers: Mapping[str, Answer]) -> None:
        """One poll's answers, by host. Counts how often in a row."""
        self._silent = Counter({host: self._silent[host] + 1 for host in answers if answers[host] is Answer.SILENT})
        self._ready = Counter({host: self._ready[host] + 1 for host in answers if answers[host] is Answer.READY})

    def out(self, servers: Sequence[Server]) -> set[str]:
        """The hosts to be held out of an upstream, given who is out now. Never such that no server is left up."""
        held = {server.host for server in servers if self._name in server.down_by}
        not_out = {server.host for server in servers if not self._others(server)}
        reloads = self._recent_reloads()
        back = {host for host in held if self._ready[host] >= READY_POLLS and reloads < RELOADS_TO_BRING_BACK}
        # Whom an operator took out may reboot in peace, and without a reload.
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
