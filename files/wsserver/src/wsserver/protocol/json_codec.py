# SPDX-License-Identifier: MIT
"""The WebSocket protocol: a JSON object in each text frame."""

from __future__ import annotations

from itertools import accumulate

import msgspec
from msgspec import Struct
from websockets.frames import Frame, Opcode

from wsserver.protocol.codec import BadMessage
from wsserver.protocol.commands import Command, Publish
from wsserver.protocol.events import Event
from wsserver.protocol.types import Position, PublishId

# Every JSON parser has a bound, most of them the size of their stack.
NESTING_MAX = 128
_NEITHER_QUOTE_NOR_BRACKET = bytes(set(range(256)) - set(b'"[]{}'))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def nested_too_deeply(json: bytes) -> bool:
    """Whether arrays and objects are more than NESTING_MAX deep in `json`, which must be valid."""
    if not _has_many_brackets(json):
        return False
    return max(accumulate(map(_STEP.__getitem__, _brackets(json))), default=0) > NESTING_MAX


def _brackets(json: bytes) -> bytes:
    """The brackets outside strings.

    A regular expression would take a hundred times the memory of a hostile message.
    """
    begins_and_ends = json.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NEITHER_QUOTE_NOR_BRACKET)
    # Removing a pair of adjacent quotes does not change which brackets are inside strings.
    return b"".join(begins_and_ends.replace(b'""', b"").split(b'"')[::2])


def _has_many_brackets(json: bytes) -> bool:
    return json.count(b"[") + json.count(b"{") > NESTING_MAX


class _PublishId(Struct):
    """Just enough of a bad publish to name it in the error."""

    id: PublishId


class JsonCodec:
    """JSON text frames, one object each."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder[Command](Command)
        self._id_decoder = msgspec.json.Decoder(_PublishId)
        self._encoder = msgspec.json.Encoder()

    def decode(self, payload: bytes) -> Command:
        # `data` is passed on as it came and only its structure is checked while decoding, so the
        # encoding is checked here: one client's bad UTF-8 must not end the connections of all
        # others.
        try:
            payload.decode()
        except UnicodeDecodeError as exc:
            raise BadMessage(f"not UTF-8: {exc.reason} at byte {exc.start}") from None
        try:
            command: Command = self._decoder.decode(payload)
        except RecursionError:
            raise BadMessage("nested too deeply") from None
        except msgspec.MsgspecError as exc:
            raise BadMessage(_why(exc), self._id_of(payload)) from None
        # Count the brackets of the whole frame first: that saves nearly every publish the copy of
        # its data.
        if _has_many_brackets(payload) and isinstance(command, Publish) and nested_too_deeply(bytes(command.data)):
            raise BadMessage(f"data is nested more than {NESTING_MAX} deep", command.id)
        return command

    def _id_of(self, payload: bytes) -> str | None:
        try:
            return self._id_decoder.decode(payload).id
        except (msgspec.MsgspecError, RecursionError):
            return None

    def frame(self, event: Event, position: Position | None = None) -> bytes:
        return text_frame(self._encoder.encode(event))


def _why(exc: msgspec.MsgspecError) -> str:
    """The text of msgspec's error, in words where msgspec would show a regular expression."""
    text = str(exc)
    if "matching regex" in text and text.endswith("`$.room`"):
        return "room must have 1 to 128 characters, without spaces or control characters"
    if "matching regex" in text and text.endswith("`$.since.epoch`"):
        return "since.epoch must be the epoch of an earlier joined or reset"
    return text


def text_frame(payload: bytes) -> bytes:
    """A complete, unmasked text frame (server to client)."""
    return bytes(Frame(Opcode.TEXT, payload).serialize(mask=False))
