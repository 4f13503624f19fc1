# SPDX-License-Identifier: MIT
"""Commands that one worker sends to all workers, itself included, through the broker."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class Disconnect(Struct, frozen=True, tag_field="order", tag="disconnect"):
    """Close every connection of a user with this code and reason."""

    user: str
    reason: str
    code: int


def encode(command: Disconnect) -> bytes:
    return msgspec.json.encode(command)


def decode(payload: bytes) -> Disconnect | None:
    """None for a command that this release does not know."""
    try:
        return msgspec.json.decode(payload, type=Disconnect)
    except msgspec.DecodeError:
        return None
