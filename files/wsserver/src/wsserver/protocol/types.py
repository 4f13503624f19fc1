# SPDX-License-Identifier: MIT
"""The values that commands, events and the log of a room have in common."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

Room = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\x21-\x7e\u00a1-\U0010ffff]+\Z")]
CommandId = Annotated[str, Meta(min_length=1, max_length=128)]
# Sequence numbers travel through Redis scripts and JavaScript, where integers are exact below 2^53.
Seq = Annotated[int, Meta(ge=0, lt=2**53)]
# Milliseconds since 1970, as a string on the wire: clients compare epochs, and never calculate with
# them.
Epoch = Annotated[str, Meta(pattern=r"^[0-9]{1,15}\Z")]

PAGE_MAX = 100


class Position(NamedTuple):
    """A place in a room's log.

    Positions order as the log does: epochs grow, and seq grows within one.
    """

    epoch: int
    seq: int

    def next(self) -> Position:
        return Position(self.epoch, self.seq + 1)


class Message(Struct, frozen=True):
    """One published message: `data` is the publisher's JSON, byte for byte; `ts` is Unix time in
    seconds.

    `trace`: the W3C traceparent of its publish, or empty.
    """

    room: str
    position: Position
    user: str
    ts: float
    data: bytes
    trace: str = ""


class Since(Struct, frozen=True):
    epoch: Epoch
    seq: Seq
