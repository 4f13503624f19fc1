# SPDX-License-Identifier: MIT
"""Every command that a client may send."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from wsserver.protocol.types import PAGE_MAX, PublishId, Room, Since


class Join(Struct, frozen=True, tag="join"):
    """`members`: whether this client gets the member events of the room."""

    room: Room
    since: Since | None = None
    members: bool = False


class Leave(Struct, frozen=True, tag="leave"):
    room: Room


class Publish(Struct, frozen=True, tag="publish"):
    room: Room
    data: msgspec.Raw
    id: PublishId


class Presence(Struct, frozen=True, tag="presence"):
    """A page of the users in a room, in the order of their names.

    `after`: the last user of the page before.
    """

    room: Room
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class History(Struct, frozen=True, tag="history"):
    """A page of a room's past: the last messages before a position, the first after one, or the
    newest.
    """

    room: Room
    before: Since | None = None
    since: Since | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class Authenticate(Struct, frozen=True, tag="auth"):
    """A fresh token of the same user, before the old one expires."""

    token: Annotated[str, Meta(min_length=1, max_length=8192)]


class Ping(Struct, frozen=True, tag="ping"):
    t: msgspec.Raw = msgspec.Raw(b"null")


Command = Join | Leave | Publish | Presence | History | Authenticate | Ping
