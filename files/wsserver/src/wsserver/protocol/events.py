# SPDX-License-Identifier: MIT
"""Every event that the service may send to a client.

The `id` of an answer or an error is the one of the client's command, if the command has one.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct


class Welcome(Struct, frozen=True, tag="welcome"):
    """`expires`: when the token expires (Unix time in seconds)."""

    user: str
    heartbeat_s: float
    max_message_bytes: int
    expires: float


class Joined(Struct, frozen=True, omit_defaults=True, tag="joined"):
    """`seq` in `epoch` is where the replay starts. `recovered`: the replay starts at the requested
    position, and the messages after that position still exist.
    """

    room: str
    epoch: str
    seq: int
    recovered: bool
    id: str | None = None


class Left(Struct, frozen=True, omit_defaults=True, tag="left"):
    room: str
    id: str | None = None


class Ack(Struct, frozen=True, tag="ack"):
    id: str
    room: str
    seq: int


class Delivery(Struct, frozen=True, tag="message", rename={"user": "from"}, omit_defaults=True):
    """`epoch`: the epoch that `seq` counts in. Earlier releases leave it out."""

    room: str
    seq: int
    user: str
    ts: float
    data: msgspec.Raw
    epoch: str | None = None


class Gap(Struct, frozen=True, tag="gap", rename={"first": "from", "last": "to"}):
    """Messages `from` to `to` (both included) no longer exist."""

    room: str
    first: int
    last: int


class Reset(Struct, frozen=True, tag="reset"):
    """The room's log began a new epoch, and all that exists of the old one came before: count on
    from `seq` in `epoch`.
    """

    room: str
    epoch: str
    seq: int


class MemberEvent(Struct, frozen=True, tag="member"):
    """The first connection of a user joined the room, or the last one left it."""

    room: str
    user: str
    event: Literal["join", "leave"]


class PresenceMember(Struct, frozen=True):
    user: str
    connections: int


class PresencePage(Struct, frozen=True, omit_defaults=True, tag="presence"):
    """`count`: the users in the room. `more`: whether more users follow this page."""

    room: str
    members: list[PresenceMember]
    count: int
    more: bool
    id: str | None = None


class HistoryMessage(Struct, frozen=True, rename={"user": "from"}):
    epoch: str
    seq: int
    user: str
    ts: float
    data: msgspec.Raw


class HistoryPage(Struct, frozen=True, omit_defaults=True, tag="history"):
    """Oldest first. `more`: whether more follow in the direction of the request."""

    room: str
    messages: list[HistoryMessage]
    more: bool
    id: str | None = None


class Authenticated(Struct, frozen=True, omit_defaults=True, tag="auth"):
    """The fresh token is valid until `expires` (Unix time in seconds)."""

    expires: float
    id: str | None = None


class Expiring(Struct, frozen=True, tag="expiring"):
    """The token expires at `expires`: send a fresh one, or the connection is closed with 1008."""

    expires: float


class Pong(Struct, frozen=True, omit_defaults=True, tag="pong"):
    t: msgspec.Raw
    id: str | None = None


class Reconnect(Struct, frozen=True, tag="reconnect"):
    """Close, and connect again after `after_ms` milliseconds.

    A client that stays is closed with 1001.
    """

    after_ms: int
    reason: str


class Error(Struct, frozen=True, tag="error", omit_defaults=True):
    """`id` and `room` are those of the command that failed; `retry_after_ms`: when it may succeed.

    An error about a room without an `id` may also concern no command, but the client's membership.
    """

    code: str
    message: str
    id: str | None = None
    room: str | None = None
    retry_after_ms: int | None = None


Event = (
    Welcome
    | Joined
    | Left
    | Ack
    | Delivery
    | Gap
    | Reset
    | MemberEvent
    | PresencePage
    | HistoryPage
    | Authenticated
    | Expiring
    | Pong
    | Reconnect
    | Error
)
