# SPDX-License-Identifier: MIT
"""How Redis holds a message: a header of one line of JSON, then the publisher's JSON as it came.

The parts are separate, so that a worker never has to parse the data. Workers of two releases share
the format: a worker ignores fields that a newer release adds.
"""

from __future__ import annotations

import time

import msgspec

from wsserver.protocol.types import Message, Position


class _Header(msgspec.Struct, rename={"user": "from"}):
    epoch: int
    seq: int
    user: str
    ts: float
    trace: str = ""


class _PublisherFields(msgspec.Struct, rename={"user": "from"}, omit_defaults=True):
    user: str
    ts: float
    trace: str = ""


_decoder = msgspec.json.Decoder(_Header)
_encoder = msgspec.json.Encoder()


def now() -> float:
    """The time of a message, to the microsecond as in Postgres, so that all readers see the same."""
    return round(time.time(), 6)


def publisher_fields(user: str, ts: float, trace: str) -> bytes:
    """The publisher's part of the header, without braces; scripts/publish.lua adds the position."""
    return _encoder.encode(_PublisherFields(user, ts, trace))[1:-1]


def decode(room: str, envelope: bytes) -> Message:
    """Raises msgspec.MsgspecError."""
    header, _newline, data = envelope.partition(b"\n")
    fields = _decoder.decode(header)
    position = Position(fields.epoch, fields.seq)
    return Message(room=room, position=position, user=fields.user, ts=fields.ts, data=data, trace=fields.trace)
