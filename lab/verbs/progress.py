# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The text of a verb's progress: pure functions of Ansible's events, the witness and the clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

# The beginning of the message about a worker's replacement, from roles/ws_server.
_TURN = re.compile(r"Worker (?P<instance>\d+) of (?P<host>\S+), (?P<number>\d+) of (?P<turns>\d+):")
_CONNECTIONS = re.compile(r"(?P<connections>\d+) connections")
_WORKER = re.compile(r"Worker \d+ of ")
# A line of `ws-server witness`.
_WITNESS = re.compile(
    r"(?P<seconds>\d+) s, (?P<connected>\d+) of (?P<clients>\d+) connected, (?P<acknowledged>\d+) acknowledged, "
    r"(?P<outstanding>\d+) not yet, (?P<delivered>\d+) delivered, (?P<owed>\d+) on their way"
)
PLAYBOOKS = ("rolling_update", "rolling_restart", "rollback")


def clock(seconds: float) -> str:
    """Minutes and seconds: 0:07, 12:34."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def step_line(elapsed: float, name: str, seconds: float) -> str:
    """The line of a finished step: when it ended, its name, its duration."""
    return f"{clock(elapsed):>6}  {name:<60} {seconds:4.0f} s"


class Step(NamedTuple):
    name: str
    seconds: float


class Plays:
    """The plays of one run as steps. A play without hosts is not a step."""

    def __init__(self, began: float) -> None:
        self.play = self.task = ""
        self._began = began
        self._results = 0

    def feed(self, event: dict[str, str], now: float) -> list[Step]:
        """Take one event; return the step that ended with it, if any."""
        ended: list[Step] = []
        match event["event"]:
            case "play":
                ended = self.finish(now)
                self.play, self.task = event["name"], ""
            case "task":
                self.task = event["name"].rpartition(" : ")[2]
            case "result":
                self._results += 1
        return ended

    def finish(self, now: float) -> list[Step]:
        ended = [Step(self.play, now - self._began)] if self._results else []
        self._began, self._results = now, 0
        return ended

    @property
    def where(self) -> str:
        return ": ".join(filter(None, (self.play, self.task)))


@dataclass(frozen=True)
class Witnessed:
    """The clients' current state."""

    connected: int
    clients: int
    acknowledged: int
    owed: int

    def __str__(self) -> str:
        return (
            f"{self.connected} of {self.clients} clients connected, {self.acknowledged:,} messages acknowledged, "
            f"{self.owed} on their way"
        )

    @property
    def ready(self) -> bool:
        """Whether all clients are connected and receive messages."""
        return self.connected == self.clients and self.acknowledged > 0


def witnessed(text: str) -> Witnessed | None:
    """Parse the last line of the witness in a text, if there is one."""
    found = list(_WITNESS.finditer(text))
    if not found:
        return None
    numbers = found[-1].groupdict()
    return Witnessed(*(int(numbers[name]) for name in ("connected", "clients", "acknowledged", "owed")))


class Turns:
    """The workers' turns of one playbook."""

    def __init__(self) -> None:
        self.begun = 0
        self._words = ""

    def feed(self, event: dict[str, str]) -> str:
        """Take one event, and return its text about a worker, if any."""
        said = " ".join(event.get("said", "").split())
        if turn := _TURN.match(said):
            self.begun += 1
            connections = _CONNECTIONS.search(said, turn.end())
            served = f", {connections['connections']} connections" if connections else ""
            self._words = f"worker {turn['number']} of {turn['turns']} ({turn['instance']} on {turn['host']}{served})"
        return said if _WORKER.match(said) else ""

    def live(self, where: str, elapsed: float, clients: Witnessed | None) -> str:
        return " · ".join(filter(None, (clock(elapsed), self._words or where, str(clients or ""))))


def next_playbook(asked: str, done: Sequence[tuple[str, int]]) -> str | None:
    """The next playbook after `done`, or None at the end.

    `done` has each playbook with the number of workers that it replaced. By default, the workers
    get a new release. If nothing is new, they are restarted, so that a roll always replaces
    workers.
    """
    if not done:
        return asked or "rolling_update"
    if not asked and list(done) == [("rolling_update", 0)]:
        return "rolling_restart"
    return None
