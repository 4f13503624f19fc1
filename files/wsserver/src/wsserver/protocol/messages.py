# SPDX-License-Identifier: MIT
"""The wire: every command a client may send, every event the server may send, and their JSON codec.

Session and hub know these types and a `Codec`; a second wire protocol is a second codec.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta, Struct
from websockets.frames import Frame, Opcode

Room = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\x21-\x7e\u00a1-\U0010ffff]+\Z")]
PublishId = Annotated[str, Meta(min_length=1, max_length=128)]
# Sequence numbers travel through Redis scripts and JavaScript, where integers are exact below 2^53.
Seq = Annotated[int, Meta(ge=0, lt=2**53)]
# Milliseconds since 1970, as a string on the wire: clients compare epochs, and never calculate with them.
Epoch = Annotated[str, Meta(pattern=r"^[0-9]{1,15}\Z")]

PAGE_MAX = 100
# Every reader of a message has a bound of its own, most of them that of their stack.
NESTING_MAX = 128
_NEITHER_QUOTE_NOR_BRACKET = bytes(set(range(256)) - set(b'"[]{}'))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class Position(NamedTuple):
    """A place in a room's log. Positions order as the log does: epochs grow, and seq grows within one."""

    epoch: int
    seq: int

    def next(self) -> Position:
        return Position(self.epoch, self.seq + 1)


class Message(Struct, frozen=True):
    """One published message: `data` is the publisher's JSON, byte for byte; `ts` is Unix time in seconds.

    `trace`: the W3C traceparent of its publish, or empty.
    """

    room: str
    position: Position
    user: str
    ts: float
    data: bytes
    trace: str = ""


# Commands: client to server.


class Since(Struct, frozen=True):
    epoch: Epoch
    seq: Seq


class Join(Struct, frozen=True, tag="join"):
    """`members`: whether to tell this client of users who come and go."""

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
    """A page of the users in a room, in the order of their names; `after` is the last one of the page before."""

    room: Room
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class History(Struct, frozen=True, tag="history"):
    """A page of a room's past: the last before a position, the first after one, or simply the last."""

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


# Events: server to client.


class Welcome(Struct, frozen=True, tag="welcome"):
    """`expires`: when the token does (Unix time in seconds)."""

    user: str
    heartbeat_s: float
    max_message_bytes: int
    expires: float


class Joined(Struct, frozen=True, tag="joined"):
    """`seq` is where the replay starts: the next message of the room is `seq` + 1."""

    room: str
    epoch: str
    seq: int
    recovered: bool


class Left(Struct, frozen=True, tag="left"):
    room: str


class Ack(Struct, frozen=True, tag="ack"):
    id: str
    room: str
    seq: int


class Delivery(Struct, frozen=True, tag="message", rename={"user": "from"}):
    room: str
    seq: int
    user: str
    ts: float
    data: msgspec.Raw


class Gap(Struct, frozen=True, tag="gap", rename={"first": "from", "last": "to"}):
    """Messages `from` to `to` (both included) are no longer in the room's log."""

    room: str
    first: int
    last: int


class Reset(Struct, frozen=True, tag="reset"):
    """The room's log began a new life: count on from `seq` in `epoch`."""

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


class PresencePage(Struct, frozen=True, tag="presence"):
    """`count`: the users in the room; `more`: whether others follow the last one of this page."""

    room: str
    members: list[PresenceMember]
    count: int
    more: bool


class HistoryMessage(Struct, frozen=True, rename={"user": "from"}):
    epoch: str
    seq: int
    user: str
    ts: float
    data: msgspec.Raw


class HistoryPage(Struct, frozen=True, tag="history"):
    """Oldest first. `more`: whether others follow in the direction of the question."""

    room: str
    messages: list[HistoryMessage]
    more: bool


class Authenticated(Struct, frozen=True, tag="auth"):
    """The fresh token holds until `expires` (Unix time in seconds)."""

    expires: float


class Expiring(Struct, frozen=True, tag="expiring"):
    """The token ends at `expires`: send a fresh one, or be closed with 1008."""

    expires: float


class Pong(Struct, frozen=True, tag="pong"):
    t: msgspec.Raw


class Reconnect(Struct, frozen=True, tag="reconnect"):
    """Close and dial again after `after_ms` milliseconds; whoever stays is closed with 1001."""

    after_ms: int
    reason: str


class Error(Struct, frozen=True, tag="error", omit_defaults=True):
    """`id` names the publish, `room` the other command that failed; `retry_after_ms`: when it may succeed."""

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


def nested_too_deeply(json: bytes) -> bool:
    """Whether arrays and objects are more than NESTING_MAX deep in `json`, which must be valid."""
    if not _has_many_brackets(json):
        return False
    return max(accumulate(map(_STEP.__getitem__, _brackets(json))), default=0) > NESTING_MAX


def _brackets(json: bytes) -> bytes:
    """Those outside strings. No regular expression: it would take a hundred times the memory of a hostile message."""
    begins_and_ends = json.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NEITHER_QUOTE_NOR_BRACKET)
    # Without a pair of quotes side by side, what is between the others is in a string, or outside, as before.
    return b"".join(begins_and_ends.replace(b'""', b"").split(b'"')[::2])


def _has_many_brackets(json: bytes) -> bool:
    return json.count(b"[") + json.count(b"{") > NESTING_MAX


class BadMessage(Exception):
    """What the client sent is not a command; the text says why, and `id` names the publish if it is known."""

    def __init__(self, why: str, id: str | None = None) -> None:
        super().__init__(why)
        self.id = id


class Codec(Protocol):
    """Commands from bytes, events to complete WebSocket frames."""

    def decode(self, payload: bytes) -> Command:
        """Raises BadMessage."""

    def frame(self, event: Event, position: Position | None = None) -> bytes:
        """`position`: where in a room's log the client is after this event, if it belongs to a log."""


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
        # encoding is checked here: one client's bad UTF-8 must not end the connections of all others.
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
        # All of the frame is counted first: that spares nearly every publish the copy of its data.
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
    """msgspec's text, but for the rules that it can only state as a regular expression."""
    text = str(exc)
    if "matching regex" in text and text.endswith("`$.room`"):
        return "room must have 1 to 128 characters, without spaces or control characters"
    if "matching regex" in text and text.endswith("`$.since.epoch`"):
        return "since.epoch must be the epoch of an earlier joined or reset"
    return text


def text_frame(payload: bytes) -> bytes:
    """A complete, unmasked text frame (server to client)."""
    return bytes(Frame(Opcode.TEXT, payload).serialize(mask=False))
