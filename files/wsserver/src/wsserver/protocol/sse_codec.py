# SPDX-License-Identifier: MIT
"""Server-sent events: the lines of a text/event-stream.

SSE has no commands; an event's id is the position to resume from.
"""

from __future__ import annotations

import msgspec

from wsserver.protocol.codec import BadMessage
from wsserver.protocol.commands import Command
from wsserver.protocol.events import Delivery, Event, Reconnect
from wsserver.protocol.types import Position, Since

# In JSON a line break is white space; in SSE it would end the field.
_BLANKS = bytes.maketrans(b"\r\n", b"  ")


class SseCodec:
    """Events as `id:`, `event:` and `data:` lines; a room's messages under the name `message`."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()

    def decode(self, payload: bytes) -> Command:
        raise BadMessage("an event stream takes no commands")

    def frame(self, event: Event, position: Position | None = None) -> bytes:
        payload = self._encoder.encode(event).translate(_BLANKS)
        lines = [b"data: " + payload, b"", b""]
        if not isinstance(event, Delivery):
            lines.insert(0, f"event: {type(event).__struct_config__.tag}".encode())
        if position is not None:
            lines.insert(0, b"id: %d-%d" % position)
        if isinstance(event, Reconnect):
            lines.insert(0, b"retry: %d" % event.after_ms)
        return b"\n".join(lines)


def position_of(event_id: str) -> Since | None:
    """The position that an event's id names. Raises ValueError."""
    if not event_id:
        return None
    epoch, dash, seq = event_id.partition("-")
    if not dash:
        raise ValueError("an id has the form <epoch>-<seq>")
    return msgspec.convert({"epoch": epoch, "seq": int(seq)}, Since)
