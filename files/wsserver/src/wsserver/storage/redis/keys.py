# SPDX-License-Identifier: MIT
"""The names of keys in Redis.

Every key carries its shard as a hash tag, so that all keys of a room live on one node of a Redis
Cluster. Names carry a version: workers of two releases share them during a rollout.
"""

from __future__ import annotations

import zlib
from hashlib import blake2b
from typing import NamedTuple

import msgspec

SHARDS = 16
# Every worker subscribes to this channel, for commands such as the disconnect of a user.
CONTROL_CHANNEL = "ws:1:orders"


def prefix(shard: int) -> str:
    return f"ws:1:{{{shard}}}"


def shard_of(name: str) -> int:
    return zlib.crc32(name.encode()) % SHARDS


def archive_stream(shard: int) -> str:
    """The messages that have to go to Postgres, in the order of the publishes."""
    return f"{prefix(shard)}:archive"


def life(shard: int) -> str:
    """The incarnation of the shard's rooms: see scripts/prove.lua. Kept for good."""
    return f"{prefix(shard)}:life"


class LogLimits(NamedTuple):
    """What a room's log keeps: messages, about as many bytes of memory, and seconds without use."""

    length: int
    bytes: int
    ttl_s: int


class RoomKeys:
    """The keys of one room."""

    def __init__(self, room: str) -> None:
        self.shard = shard_of(room)
        start = prefix(self.shard)
        self.archive = archive_stream(self.shard)
        self.hash = f"{start}:room:{room}"
        self.stream = f"{start}:log:{room}"
        self.channel = f"{start}:live:{room}"
        self._once = f"{start}:once:"

    def once(self, user: str, room: str, id: str) -> str:
        """The dedupe key of one publish; a digest, because each part may hold any character."""
        parts = msgspec.json.encode((user, room, id))
        return self._once + blake2b(parts, digest_size=16).hexdigest()
