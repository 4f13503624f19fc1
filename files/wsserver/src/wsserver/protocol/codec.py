# SPDX-License-Identifier: MIT
"""A wire protocol, as sessions and rooms see it.

A second protocol is a second codec over the same commands and events.
"""

from __future__ import annotations

from typing import Protocol

from wsserver.protocol.commands import Command
from wsserver.protocol.events import Event
from wsserver.protocol.types import Position


class BadMessage(Exception):
    """The payload is not a command. The text says why; `id` and `room` are the command's, as far as
    they can be read.
    """

    def __init__(self, why: str, id: str | None = None, room: str | None = None) -> None:
        super().__init__(why)
        self.id = id
        self.room = room


class Codec(Protocol):
    """Commands from bytes, events to complete WebSocket frames."""

    def decode(self, payload: bytes) -> Command:
        """The command in a payload. Raises BadMessage."""

    def frame(self, event: Event, position: Position | None = None) -> bytes:
        """The frame of an event.

        `position`: the client's position in a room's log after this event, if any.
        """
