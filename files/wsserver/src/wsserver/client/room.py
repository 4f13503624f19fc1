# SPDX-License-Identifier: MIT
"""One room as its member sees it: every message once and in order, or a reason why not."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple, Self

import msgspec

from wsserver.protocol.events import Delivery, Gap, Joined, Reset
from wsserver.protocol.types import Since


class Position(NamedTuple):
    """A place in a room's log, to resume from. Epochs are compared for equality only."""

    epoch: str
    seq: int

    def on_the_wire(self) -> Since:
        return Since(self.epoch, self.seq)


@dataclass(frozen=True, slots=True)
class Message:
    """`user` published `data`; `ts` is Unix time in seconds."""

    room: str
    epoch: str
    seq: int
    user: str
    ts: float
    data: Any


class Unreadable(Exception):
    """A message's data is JSON that Python cannot hold."""


def read(data: msgspec.Raw) -> Any:
    """Raises Unreadable."""
    try:
        try:
            return msgspec.json.decode(data)
        except msgspec.ValidationError:  # a number out of msgspec's range
            return json.loads(bytes(data), parse_int=_integer)
    except (ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise Unreadable(str(exc)) from exc


def _integer(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts
        return float(digits)


class Arrival(Enum):
    """What a message is to the room that it arrives in."""

    NEXT = auto()
    REPEAT = auto()
    AFTER_A_HOLE = auto()


class Room:
    """Iterate over it for its messages; whoever joined with `on_message` has them told instead.

    `position`: up to where messages have been handed out; join with it as `since` to go on from there.
    `recovered`: whether the last join continued where it was asked to.
    """

    def __init__(
        self, name: str, members: bool, since: Position | None, on_message: Callable[[Message], None] | None
    ) -> None:
        self.name = name
        self.members = members
        self.position = since
        self.recovered = False
        self.joined = False
        self._tell = on_message
        self._unread: deque[Message] = deque()
        self._news = asyncio.Event()
        self._end: Exception | None = None
        self._after_taking: Callable[[], None] = lambda: None
        self._mending: Position | None = None

    # For the application.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Raises the reason why no more messages can come; stops after `leave` and `close`."""
        while not self._unread:
            if self._end is not None:
                raise self._end
            self._news.clear()
            await self._news.wait()
        message = self._unread.popleft()
        self._after_taking()
        return message

    # For the client.

    @property
    def unread(self) -> int:
        return len(self._unread)

    def on_taken(self, tell: Callable[[], None]) -> None:
        self._after_taking = tell

    def end(self, why: Exception | None = None) -> None:
        """No more messages come; those that did can still be read. `why`: None if the application wanted it."""
        self._end = self._end or why or StopAsyncIteration()
        self._news.set()

    def start(self, event: Joined) -> Gap | Reset | None:
        """The server's answer to a join. Returns what it could not recover."""
        before, now = self.position, Position(event.epoch, event.seq)
        self.joined, self.recovered = True, event.recovered
        if event.recovered and before is not None and before.epoch == now.epoch:
            return None  # the replay starts where this room is, whatever else the server says
        self.position = now
        if before is None or before == now:
            return None
        if before.epoch == now.epoch and before.seq < now.seq:
            return Gap(self.name, before.seq + 1, now.seq)
        return Reset(self.name, *now)

    def arrival(self, seq: int) -> Arrival:
        if self.position is None or seq > self.position.seq + 1:
            return Arrival.AFTER_A_HOLE
        return Arrival.NEXT if seq == self.position.seq + 1 else Arrival.REPEAT

    def mend(self) -> bool:
        """There is a hole after `position`. True if resuming may close it: unless that was tried."""
        tried, self._mending = self._mending, self.position
        return tried != self.position or self.position is None

    def skip(self, last: int) -> Gap | None:
        """Messages up to `last` will not come. Returns the part of them that was still expected."""
        if self.position is None or last <= self.position.seq:
            return None
        gap = Gap(self.name, self.position.seq + 1, last)
        self.position = Position(self.position.epoch, last)
        return gap

    def take(self, delivery: Delivery) -> Message:
        """Move on to the next message. Raises Unreadable, and has not moved then."""
        assert self.position is not None, "a room has a position once it is joined"
        data = read(delivery.data)
        self.position = Position(self.position.epoch, delivery.seq)
        return Message(self.name, *self.position, delivery.user, delivery.ts, data)

    def hand_out(self, message: Message) -> None:
        if self._tell is not None:
            self._tell(message)
        elif self._end is None:
            self._unread.append(message)
            self._news.set()
