# SPDX-License-Identifier: MIT
"""One room, as its member sees it: every message once and in order, or a gap."""

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
    """The data of a message is JSON that Python cannot represent."""


def read(data: msgspec.Raw) -> Any:
    """The value of a message's data. Raises Unreadable."""
    try:
        try:
            return msgspec.json.decode(data)
        except msgspec.ValidationError:  # a number beyond msgspec's range
            return json.loads(bytes(data), parse_int=_integer)
    except (ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise Unreadable(str(exc)) from exc


def _integer(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:  # a number with more digits than Python converts
        return float(digits)


class Arrival(Enum):
    """How a message relates to the position of its room."""

    NEXT = auto()
    REPEAT = auto()
    AFTER_A_HOLE = auto()


class Room:
    """Iterate over a room for its messages, unless it was joined with `on_message`.

    `position`: the position of the last message handed out; join with it as `since` to continue
    there. `recovered`: whether the last join continued at the requested position.
    """

    def __init__(
        self, name: str, members: bool, since: Position | None, on_message: Callable[[Message], None] | None
    ) -> None:
        self.name = name
        self.members = members
        self.position = since
        self.recovered = False
        self.joined = False
        self._on_message = on_message
        self._unread: deque[Message] = deque()
        self._news = asyncio.Event()
        self._end: Exception | None = None
        self._after_taking: Callable[[], None] = lambda: None
        self._resumed_at: Position | None = None

    # For the application.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """The next message.

        Raises the error that ended the room; stops after `leave` and `close`.
        """
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

    def on_taken(self, function: Callable[[], None]) -> None:
        self._after_taking = function

    def end(self, why: Exception | None = None) -> None:
        """End the room. Unread messages can still be read. `why`: None if the application left."""
        self._end = self._end or why or StopAsyncIteration()
        self._news.set()

    def start(self, event: Joined) -> Gap | Reset | None:
        """Process the answer to a join.

        Returns the gap or reset if messages could not be recovered.
        """
        before, now = self.position, Position(event.epoch, event.seq)
        self.joined, self.recovered = True, event.recovered
        if event.recovered and before is not None and before.epoch == now.epoch:
            return None  # the replay starts at the position of this room, whatever the event says
        self.position = now
        if before is None or before == now:
            return None
        if before.epoch == now.epoch and before.seq < now.seq:
            return Gap(self.name, before.seq + 1, now.seq)
        return Reset(self.name, *now)

    def arrival(self, seq: int, epoch: str | None = None) -> Arrival:
        """`epoch`: None if the server did not say."""
        if self.position is None or seq > self.position.seq + 1 or epoch not in (None, self.position.epoch):
            return Arrival.AFTER_A_HOLE
        return Arrival.NEXT if seq == self.position.seq + 1 else Arrival.REPEAT

    def on_hole(self) -> bool:
        """Handle a hole after `position`.

        Returns whether to resume: not if the client has already resumed at this position.
        """
        tried, self._resumed_at = self._resumed_at, self.position
        return tried != self.position or self.position is None

    def skip(self, last: int) -> Gap | None:
        """Skip the messages up to `last`, which will not come.

        Returns the gap from the current position, if any.
        """
        if self.position is None or last <= self.position.seq:
            return None
        gap = Gap(self.name, self.position.seq + 1, last)
        self.position = Position(self.position.epoch, last)
        return gap

    def enter(self, epoch: str, seq: int) -> Reset:
        """Continue after `seq` in another epoch, which began without notice."""
        self.position = Position(epoch, seq)
        return Reset(self.name, epoch, seq)

    def take(self, delivery: Delivery) -> Message:
        """Advance to the next message. Raises Unreadable, and then does not advance."""
        assert self.position is not None, "a joined room has a position"
        data = read(delivery.data)
        self.position = Position(self.position.epoch, delivery.seq)
        return Message(self.name, *self.position, delivery.user, delivery.ts, data)

    def hand_out(self, message: Message) -> None:
        if self._on_message is not None:
            self._on_message(message)
        elif self._end is None:
            self._unread.append(message)
            self._news.set()
