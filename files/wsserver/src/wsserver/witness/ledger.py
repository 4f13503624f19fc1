# SPDX-License-Identifier: MIT
"""What was published, what was acknowledged and what arrived where: whether the promise was kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from wsserver.client import Position
from wsserver.witness.latencies import Latencies

_TOLD = 20


class Key(NamedTuple):
    """One message: each publisher counts its own from 0, over all rooms."""

    publisher: int
    number: int


class _Publish:
    """`seen`: a bit for each subscriber that got it."""

    __slots__ = ("acknowledged", "asked_at", "position", "room", "seen")

    def __init__(self, room: str, asked_at: float) -> None:
        self.room = room
        self.asked_at = asked_at
        self.acknowledged: int | None = None  # the seq that the publisher was told
        self.position: Position | None = None  # where its first receiver saw it
        self.seen = 0


class Ledger:
    """Every acknowledged message must reach every subscriber of its room once, in order, at the place acknowledged.

    `audiences`: the number of subscribers of each room, all joined before anything is published.
    Times are in seconds, of one clock. A publish is entered once, however often it is repeated; one without an
    acknowledgement may arrive or not. A message that is done with is forgotten, but for its number.

    `duplicated`: messages that a subscriber got once more. `reordered`: those that a subscriber got after a later one,
    or at another place than others were told. `owed`: acknowledged messages that subscribers do not have (one message
    that five lack counts five); at the end they are lost. `faults`: the first of all these, in words.
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
        """The publisher is about to send it."""
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
        """A subscriber of `room`, counted from 0, was handed it. One that was never published here is ignored."""
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
        """In words, what is owed."""
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
    """A set of numbers that are added more or less in order."""

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
