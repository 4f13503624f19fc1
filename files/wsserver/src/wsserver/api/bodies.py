# SPDX-License-Identifier: MIT
"""The bodies and parameters of requests, validated: an error names the field and what is allowed."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from wsserver.api.problem import Problem, bad_request
from wsserver.auth import claims, patterns
from wsserver.protocol.types import PAGE_MAX, CommandId, Position, Room

BATCH_MAX = 1000
_DEFAULT_SENDER = "server"
_POSITION = re.compile(r"([0-9]{1,15})-([0-9]{1,16})")
_SEQ_END = 2**53
_CLOSE_REASON_BYTES = 123
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX)]

_T = TypeVar("_T")


class _Request(Struct, forbid_unknown_fields=True):
    """Refuses unknown fields: a misspelt field would silently leave its default in force."""


class PublishBody(_Request, rename={"user": "from"}):
    room: str
    data: Raw
    user: str = _DEFAULT_SENDER


class BatchMessage(_Request, rename={"user": "from"}):
    rooms: Annotated[list[str], Meta(min_length=1)]
    data: Raw
    user: str = _DEFAULT_SENDER
    id: CommandId | None = None


class BatchBody(_Request):
    messages: Annotated[list[Raw], Meta(min_length=1, max_length=BATCH_MAX)]


class DisconnectBody(_Request):
    """`code`: 1000, 1001 and 1008 belong to WebSocket, 4000 to 4999 to the application."""

    reason: str = "disconnected by the server"
    code: int = 1008


class TicketBody(_Request):
    """`expires_s`: the seconds that the connection may last."""

    user: str
    join: list[str] | None = None
    publish: list[str] | None = None
    expires_s: Annotated[int, Meta(ge=1, le=30 * 86400)] | None = None


class PresenceQuery(_Request):
    after: str = ""
    limit: Limit = PAGE_MAX


class HistoryQuery(_Request):
    before: str | None = None
    since: str | None = None
    limit: Limit = PAGE_MAX


def decode(body: bytes | Raw, kind: type[_T], at: str = "") -> _T:
    """The decoded body. `at`: the text before the field's name in an error. Raises Problem."""
    try:
        if isinstance(body, bytes):  # and not a part of a checked body
            # msgspec checks only the structure of `data`, which is passed on as it came.
            body.decode()
        return msgspec.json.decode(body, type=kind)
    except UnicodeDecodeError as exc:
        raise bad_request(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from None
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
    except msgspec.ValidationError as exc:
        raise _invalid(exc, kind, at) from None
    except msgspec.DecodeError as exc:
        raise bad_request(f"the body is not JSON: {exc}") from None


def query(request: web.Request, kind: type[_T]) -> _T:
    """Raises Problem."""
    parameters = request.query
    for name in parameters:
        if len(parameters.getall(name)) > 1:
            raise bad_request(f"{name} is given more than once")
    try:
        return msgspec.convert(dict(parameters), kind, strict=False)
    except msgspec.ValidationError as exc:
        raise _invalid(exc, kind, "") from None


def _invalid(exc: msgspec.ValidationError, kind: type[Any], at: str) -> Problem:
    """The text of msgspec's error with the field first: msgspec has paths like `$.messages[...]`."""
    what, _at, path = str(exc).partition(" - at `$")
    if what.startswith("Object contains unknown field"):
        what += f"; known are {', '.join(field.encode_name for field in msgspec.structs.fields(kind))}"
    where = (at + path.removesuffix("`")).removeprefix(".")
    return bad_request(f"{where}: {what}" if where else what)


def check_room(name: str, where: str) -> str:
    """Raises Problem."""
    try:
        return msgspec.convert(name, Room)
    except msgspec.ValidationError:
        raise bad_request(
            f"{where}: a room's name has 1 to 128 characters, without spaces or control characters"
        ) from None


def check_user(name: str, where: str) -> str:
    """Apply the rule for a token's `sub`. Raises Problem."""
    if not claims.is_user(name):
        raise bad_request(f"{where}: a user's name has 1 to 128 printable characters")
    return name


def check_patterns(given: list[str] | None, where: str) -> tuple[str, ...] | None:
    """Apply the rule for a token's claims. Raises Problem."""
    try:
        return None if given is None else patterns.checked(where, given)
    except ValueError as exc:
        raise bad_request(str(exc)) from None


def check_close(body: DisconnectBody) -> DisconnectBody:
    """Check that a WebSocket close frame can hold the code and the reason. Raises Problem."""
    if body.code not in (1000, 1001, 1008) and not 4000 <= body.code <= 4999:
        raise bad_request("code: 1000, 1001, 1008, or 4000 to 4999")
    if len(body.reason.encode()) > _CLOSE_REASON_BYTES:
        raise bad_request(f"reason: at most {_CLOSE_REASON_BYTES} bytes of UTF-8")
    return body


def position(text: str | None, where: str) -> Position | None:
    """The position in a text EPOCH-SEQ. Raises Problem."""
    if text is None:
        return None
    match = _POSITION.fullmatch(text)
    if match is None or int(match[2]) >= _SEQ_END:
        raise bad_request(f"{where}: a position is EPOCH-SEQ, for example 1700000000000-42")
    return Position(int(match[1]), int(match[2]))


def named(request: web.Request) -> str:
    """The room or user in a path such as /v1/rooms/NAME/presence, as the client escaped it.

    Read from the bytes of the request: aiohttp's path has `/` in place of `%2F` already. Raises
    Problem.
    """
    escaped = request.raw_path.partition("?")[0].split("/")[-2]
    try:
        return unquote(escaped, errors="strict")
    except UnicodeDecodeError:
        raise bad_request("the name in the path is not UTF-8, percent-encoded") from None


def idempotency_key(request: web.Request) -> str | None:
    """Raises Problem."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= 128 or not (keys[0].isascii() and keys[0].isprintable()):
        raise bad_request("Idempotency-Key: one header with 1 to 128 printable ASCII characters")
    return keys[0]


def traceparent(request: web.Request) -> str:
    """The W3C trace that the request belongs to, or empty."""
    given = request.headers.getall("traceparent", [])
    return given[0] if len(given) == 1 and _TRACEPARENT.fullmatch(given[0]) else ""


def trace(request: web.Request) -> dict[str, str]:
    """The log fields of the request's trace, if the trace is sampled."""
    _version, _dash, rest = traceparent(request).partition("-")
    return {"trace_id": rest[:32]} if int(rest[-2:] or "0", 16) & 1 else {}
