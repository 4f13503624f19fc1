# SPDX-License-Identifier: MIT
"""The ledger of publishes, acknowledgements and deliveries, which decides whether the promise was
kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from wsserver.client import Position
from wsserver.witness.latencies import Latencies

_TOLD = 20


class Key(NamedTuple):
    """Identifies a message: each publisher counts its messages from 0, over all rooms."""

    publisher: int
    number: int


class _Publish:
    """`seen`: a bit for each subscriber that got the message."""

    __slots__ = ("acknowledged", "asked_at", "position", "room", "seen")

    def __init__(self, room: str, asked_at: float) -> None:
        self.room = room
        self.asked_at = asked_at
        self.acknowledged: int | None = None  # the seq of the acknowledgement
        self.position: Position | None = None  # the position that its first receiver saw
        self.seen = 0


class Ledger:
    """Every acknowledged message must reach every subscriber of its room once, in order, at the
    acknowledged `seq`.

    `audiences`: the number of subscribers of each room, all joined before the first publish. Times
    are in seconds, of one clock. A publish is entered once, also if it is repeated. A message
    without an acknowledgement may arrive or not. The ledger forgets a message that is done, except
    for its number.

    `duplicated`: messages that a subscriber got again. `reordered`: messages that a subscriber got
    after a later one, or at a position that differs from that of others. `owed`: acknowledged
    messages that subscribers lack (a message that five subscribers lack counts five times); at the
    end they are lost. `faults`: the first of all these, in words.
    """

    def __init__(self, audiences: Mapping[str, int]) -> None:
        self.published = 0
        self.acknowledged = 0
        self.delivered = 0
        self.duplicated = 0
        self.reordered = 0
        self.owed = 0
        self.faults: list[str] = []
        self.to_ack = Latencies()
        self.to_delivery = Latencies()
        self._audiences = audiences
        self._everybody = {room: (1 << count) - 1 for room, count in audiences.items()}
        self._open: dict[Key, _Publish] = {}
        self._done: dict[int, _Numbers] = {}
        self._positions: dict[tuple[str, int], Position] = {}

    def publish(self, key: Key, room: str, at: float) -> None:
        """Enter a message that its publisher is about to send."""
        self._open[key] = _Publish(room, at)
        self.published += 1

    def acknowledge(self, key: Key, seq: int, at: float) -> None:
        publish = self._open[key]
        self.acknowledged += 1
        self.to_ack.add(at - publish.asked_at)
        publish.acknowledged = seq
        if publish.position is not None and publish.position.seq != seq:
            self._misplaced(publish, publish.position)
        self.owed += self._audiences[publish.room] - publish.seen.bit_count()
        self._close_if_done(key, publish)

    def deliver(self, key: Key, room: str, subscriber: int, position: Position, at: float) -> None:
        """Enter a delivery to a subscriber of `room`, counted from 0.

        Ignores messages of other witnesses.
        """
        before = self._positions.get((room, subscriber))
        self._positions[room, subscriber] = position
        publish = self._open.get(key)
        bit = 1 << subscriber
        if publish is None:
            if key.number in self._done.get(key.publisher, ()):
                self._duplicate(room, subscriber, position)
            return
        if publish.seen & bit:
            self._duplicate(room, subscriber, position)
            return
        publish.seen |= bit
        self.delivered += 1
        self.to_delivery.add(at - publish.asked_at)
        if before is not None and before.epoch == position.epoch and before.seq >= position.seq:
            self._reorder(f"subscriber {subscriber} of {room} got message {position.seq} after {before.seq}")
        elif publish.position is None:
            publish.position = position
            if publish.acknowledged not in (None, position.seq):
                self._misplaced(publish, position)
        elif publish.position != position:
            seqs = f"{position.seq}, and another one as {publish.position.seq}"
            self._reorder(f"subscriber {subscriber} of {room} got a message as {seqs}")
        if publish.acknowledged is not None:
            self.owed -= 1
            self._close_if_done(key, publish)

    def missing(self) -> Iterator[str]:
        """Describes the owed messages."""
        for publish in self._open.values():
            if publish.acknowledged is not None:
                lacking = self._everybody[publish.room] & ~publish.seen
                who = ", ".join(str(n) for n in range(self._audiences[publish.room]) if lacking >> n & 1)
                yield f"message {publish.acknowledged} of {publish.room} did not reach subscribers {who}"

    def _close_if_done(self, key: Key, publish: _Publish) -> None:
        if publish.seen == self._everybody[publish.room]:
            del self._open[key]
            self._done.setdefault(key.publisher, _Numbers()).add(key.number)

    def _misplaced(self, publish: _Publish, position: Position) -> None:
        self._reorder(f"message {publish.acknowledged} of {publish.room} was delivered as {position.seq}")

    def _reorder(self, what: str) -> None:
        self.reordered += 1
        self._tell(what)

    def _duplicate(self, room: str, subscriber: int, position: Position) -> None:
        self.duplicated += 1
        self._tell(f"subscriber {subscriber} of {room} got message {position.seq} though it had it")

    def _tell(self, what: str) -> None:
        if len(self.faults) < _TOLD:
            self.faults.append(what)


class _Numbers:
    """A set of numbers that are added roughly in order."""

    def __init__(self) -> None:
        self._all_below = 0
        self._others: set[int] = set()

    def add(self, number: int) -> None:
        self._others.add(number)
        while self._all_below in self._others:
            self._others.remove(self._all_below)
            self._all_below += 1

    def __contains__(self, number: int) -> bool:
        return number < self._all_below or number in self._others
