# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Words for what a verb does: pure functions of Ansible's events, the witness's lines and the clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

# The first words of a worker's turn, as roles/ws_server says them.
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
    """The line of a step that is done: when it ended, its name, how long it took."""
    return f"{clock(elapsed):>6}  {name:<60} {seconds:4.0f} s"


class Step(NamedTuple):
    name: str
    seconds: float


class Plays:
    """The plays of one run as steps. A play in which no host had anything to do is no step."""

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
    """What the clients see at this moment."""

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
        """All clients are in, and messages flow."""
        return self.connected == self.clients and self.acknowledged > 0


def witnessed(text: str) -> Witnessed | None:
    """The last line of the witness in a text, if there is any."""
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
        """Take one event; return what it says of a worker, if anything."""
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
    """The playbook to run after those that are done (each with how many workers it replaced), or None at the end.

    Without a wish the workers get what is new; if nothing is new, they are restarted, so that a roll always replaces workers.
    """
    if not done:
        return asked or "rolling_update"
    if not asked and list(done) == [("rolling_update", 0)]:
        return "rolling_restart"
    return None
