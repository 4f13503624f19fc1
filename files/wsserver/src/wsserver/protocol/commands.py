# SPDX-License-Identifier: MIT
"""Every command that a client may send.

Its `id`, if it has one, is the client's name for the command: the answer or the error repeats it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from wsserver.protocol.types import PAGE_MAX, CommandId, Room, Since


class Join(Struct, frozen=True, omit_defaults=True, tag="join"):
    """`members`: whether this client gets the member events of the room."""

    room: Room
    since: Since | None = None
    members: bool = False
    id: CommandId | None = None


class Leave(Struct, frozen=True, omit_defaults=True, tag="leave"):
    room: Room
    id: CommandId | None = None


class Publish(Struct, frozen=True, tag="publish"):
    room: Room
    data: msgspec.Raw
    id: CommandId


class Presence(Struct, frozen=True, omit_defaults=True, tag="presence"):
    """A page of the users in a room, in the order of their names.

    `after`: the last user of the page before.
    """

    room: Room
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX
    id: CommandId | None = None


class History(Struct, frozen=True, omit_defaults=True, tag="history"):
    """A page of a room's past: the last messages before a position, the first after one, or the
    newest.
    """

    room: Room
    before: Since | None = None
    since: Since | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX
    id: CommandId | None = None


class Authenticate(Struct, frozen=True, omit_defaults=True, tag="auth"):
    """A fresh token of the same user, before the old one expires."""

    token: Annotated[str, Meta(min_length=1, max_length=8192)]
    id: CommandId | None = None


class Ping(Struct, frozen=True, tag="ping"):
    t: msgspec.Raw = msgspec.Raw(b"null")
    id: CommandId | None = None


Command = Join | Leave | Publish | Presence | History | Authenticate | Ping
