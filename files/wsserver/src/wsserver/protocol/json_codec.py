# SPDX-License-Identifier: MIT
"""The WebSocket protocol: a JSON object in each text frame."""

from __future__ import annotations

import re
from itertools import accumulate
from operator import add

import msgspec
from msgspec import Struct
from websockets.frames import Frame, Opcode

from wsserver.protocol.codec import BadMessage
from wsserver.protocol.commands import Command, Publish
from wsserver.protocol.events import Event
from wsserver.protocol.types import Position

# Every JSON parser has a bound, most of them the size of their stack.
NESTING_MAX = 128
_NEITHER_QUOTE_NOR_BRACKET = bytes(set(range(256)) - set(b'"[]{}'))
# The names in broken JSON are searched in so many bytes of each end, and repeated up to a length.
_END_BYTES = 512
_NAME_BYTES = 1024
_ABSENT = msgspec.Raw(b"null")
_SIMPLE = rb'"(\w{1,32})"\s*:\s*("(?:[^"\\]|\\.)*"|[\w.+-]+)\s*'
_MEMBER = re.compile(_SIMPLE)
_HEAD = re.compile(rb"\s*\{\s*((?:%b,\s*)*)" % _SIMPLE)
_TAIL = re.compile(rb"((?:,\s*%b){1,4})\}\s*\Z" % _SIMPLE)
_BITS = bytes.maketrans(b"[{]}", b"1100")


def _levels(brackets: int) -> list[int]:
    """The depth after each of eight brackets, which are bits: 1 opens, 0 closes."""
    return list(accumulate(1 if brackets >> bit & 1 else -1 for bit in range(7, -1, -1)))


# Of each eight brackets, the depth behind them, as a signed byte, and their greatest depth.
_RISES = bytes(_levels(brackets)[-1] % 256 for brackets in range(256))
_PEAKS = bytes(max(0, *_levels(brackets)) for brackets in range(256))


def nested_too_deeply(json: bytes) -> bool:
    """Whether arrays and objects are more than NESTING_MAX deep in `json`, which must be valid.

    Looks at eight brackets at a time: a client must not hold the event loop with many.
    """
    if not _has_many_brackets(json):
        return False
    bits = _brackets(json).translate(_BITS)
    bits += b"0" * (-len(bits) % 8)
    eights = int(bits or b"0", 2).to_bytes(len(bits) // 8, "big")
    depths = accumulate(memoryview(eights.translate(_RISES)).cast("b"), initial=0)
    return max(map(add, depths, eights.translate(_PEAKS)), default=0) > NESTING_MAX


def _brackets(json: bytes) -> bytes:
    """The brackets outside strings.

    A regular expression would take a hundred times the memory of a hostile message.
    """
    begins_and_ends = json.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NEITHER_QUOTE_NOR_BRACKET)
    # Removing a pair of adjacent quotes does not change which brackets are inside strings.
    return b"".join(begins_and_ends.replace(b'""', b"").split(b'"')[::2])


def _has_many_brackets(json: bytes) -> bool:
    return json.count(b"[") + json.count(b"{") > NESTING_MAX


class _Names(Struct):
    """Just enough of a bad command to name it in the error."""

    id: msgspec.Raw = _ABSENT
    room: msgspec.Raw = _ABSENT


def _simple_members(payload: bytes) -> dict[bytes, bytes]:
    """The members of broken JSON whose values are texts, numbers or constants: the first ones and
    up to four of the last ones, in front of and behind the first and the last nested value.

    Reads only the ends of the payload: a client must not make the service read it often.
    """
    found: dict[bytes, bytes] = {}
    end = _TAIL.search(payload[-_END_BYTES:])
    if end:
        found.update(_MEMBER.findall(end[1]))
    start = _HEAD.match(payload[:_END_BYTES])
    if start:
        found.update(_MEMBER.findall(start[1]))
    return found


def _text(value: bytes | None) -> str | None:
    """The text that this JSON is, unless it is no text, or too long to be repeated."""
    if not value or not value.startswith(b'"') or len(value) > _NAME_BYTES:
        return None
    try:
        return msgspec.json.decode(value, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class JsonCodec:
    """JSON text frames, one object each."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder[Command](Command)
        self._names_decoder = msgspec.json.Decoder(_Names)
        self._encoder = msgspec.json.Encoder()

    def decode(self, payload: bytes) -> Command:
        # `data` is passed on as it came and only its structure is checked while decoding, so the
        # encoding is checked here: one client's bad UTF-8 must not end the connections of all
        # others.
        try:
            payload.decode()
        except UnicodeDecodeError as exc:
            raise self._bad(f"not UTF-8: {exc.reason} at byte {exc.start}", payload) from None
        try:
            command: Command = self._decoder.decode(payload)
        except RecursionError:
            raise self._bad("nested too deeply", payload) from None
        except msgspec.MsgspecError as exc:
            raise self._bad(_why(exc), payload) from None
        # Count the brackets of the whole frame first: that saves nearly every publish the copy of
        # its data.
        if _has_many_brackets(payload) and isinstance(command, Publish) and nested_too_deeply(bytes(command.data)):
            raise BadMessage(f"data is nested more than {NESTING_MAX} deep", command.id, command.room)
        return command

    def _bad(self, why: str, payload: bytes) -> BadMessage:
        """The error for a payload, with the names in it."""
        try:
            names = self._names_decoder.decode(payload)
        except (msgspec.MsgspecError, RecursionError):
            found = _simple_members(payload)
            return BadMessage(why, _text(found.get(b"id")), _text(found.get(b"room")))
        return BadMessage(why, _text(bytes(names.id)), _text(bytes(names.room)))

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
