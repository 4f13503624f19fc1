# SPDX-License-Identifier: MIT
"""The port to a broker, which numbers and keeps the messages of each room, and sends them to its
subscribers.

A broker's live feed may lose messages (pub/sub is at most once) but never reorders within a room.
Its log loses no message until it trims the oldest. From both, the hub makes "exactly once, in order".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from wsserver.protocol.types import Message, Position

# Bounds the memory and the time of the event loop that one client's request takes.
READ_BYTES = 256 * 1024


class Published(NamedTuple):
    """Where a publish landed; `repeat` if an earlier one with the same user, room and id had landed
    already.
    """

    position: Position
    repeat: bool


class Delivered(NamedTuple):
    """The position up to which a room was delivered, and the time of the message there (0: not
    known).
    """

    position: Position
    ts: float


class Listener(Protocol):
    """The hub, as the broker sees it."""

    def on_message(self, message: Message) -> None:
        """A message from the live feed."""

    def on_member(self, room: str, user: str, joined: bool) -> None:
        """A user's first connection joined a room, or the last one left it.

        May be lost; `PresenceStore` knows.
        """

    def delivered(self) -> dict[str, Delivered]:
        """Of each room, the last message that was delivered."""

    def on_available(self) -> None:
        """The broker is reachable (again) and all subscriptions are in place.

        Messages may have been missed.
        """


class Broker(Protocol):
    """One worker's way to all rooms.

    Reads raise BrokerUnavailable while the broker is unavailable, and BrokerFull if the broker
    would have to write, and cannot.

    fullness: the used part of its memory, 0 to 1, some seconds old. disk_full: the broker cannot
    write to its disk.
    """

    available: bool
    fullness: float

    @property
    def disk_full(self) -> bool: ...

    async def run(self, listener: Listener, carry_out: Callable[[bytes], None]) -> None:
        """Keep the broker connected, and its subscriptions in place, until cancelled.

        `carry_out` gets the payloads that any worker sent with `publish_control`; these may be
        lost.
        """

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        """One atomic step: drop a repeat of (user, room, id), take the next seq, append to the log,
        tell subscribers.

        Publishes take effect in the order of the calls. The future raises a BrokerError.
        `trace`: a W3C traceparent, which travels with the message.
        """

    async def publish_control(self, payload: bytes) -> None:
        """Send to every worker, this one included; at most once. Raises BrokerUnavailable."""

    async def subscribe(self, room: str) -> None:
        """Returns once the live feed of `room` is confirmed."""

    async def unsubscribe(self, room: str) -> None:
        """Takes effect in order with `subscribe`: the last call holds."""

    async def head(self, room: str) -> Position:
        """The position of the room's newest message; begins a new epoch where the old one cannot be
        continued.
        """

    async def heads(self, rooms: list[str]) -> list[Position | None]:
        """The newest positions of many rooms, cheaply; None for a room whose log is gone.

        Keeps them from expiring.
        """

    async def renew(self, room: str, seen: Position) -> Position:
        """Begin a new epoch if the room's log ends before `seen`, which was delivered once; the
        head after that. The epoch of `seen` did not end before `seen`.
        """

    async def ends(self, room: str) -> list[Position]:
        """Where the room's latest epochs ended, in any order: the position of the last message of
        each (seq 0: none), as far as the broker can tell. An epoch is missing if that is not known.
        """

    async def message(self, room: str, position: Position) -> Message | None:
        """The message at this position; None if the room's log no longer has it."""

    async def read(self, room: str, after: Position, limit: int) -> list[Message]:
        """Up to `limit` messages that follow `after`, in order, epoch by epoch; the oldest may have
        been trimmed.

        There may be fewer: a read may end once the messages before its last one have READ_BYTES of
        data.
        """

    async def read_before(self, room: str, before: Position | None, limit: int) -> list[Message]:
        """The last `limit` messages before `before` (None: of all), in order; or fewer, as in
        `read`.
        """
