# SPDX-License-Identifier: MIT
"""The JSON codec with random payloads."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import server_frames

from wsserver.protocol.codec import BadMessage
from wsserver.protocol.commands import Ping, Publish
from wsserver.protocol.events import Delivery, Error, Pong
from wsserver.protocol.json_codec import JsonCodec

_CODEC = JsonCodec()
_NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([2**53, 2**64, -(2**200)])
_NASTY = st.sampled_from(["\0", "\x1f", "\ud800", "\udc00\ud800", "\ufeff", "\u2028", "\U0010ffff", "a" * 70_000])
_LEAVES = st.none() | st.booleans() | _NUMBERS | st.text(max_size=8) | _NASTY
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text() | _NASTY, inner), max_leaves=12
)
_TYPES = ["join", "leave", "publish", "presence", "history", "auth", "ping", "message", "error", ""]
_FIELDS = ["room", "since", "members", "data", "id", "after", "limit", "before", "token", "t", "epoch", "seq", "x"]
_COMMANDS = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(_TYPES) | _VALUES,
    st.dictionaries(st.sampled_from(_FIELDS), _VALUES | st.sampled_from(["r", "1", 1]), max_size=4),
)
# Almost JSON.
_BROKEN = st.sampled_from(
    ['"\x01"', r'"\x"', r'"\u12"', "1.", "-", "01", "+1", "1e", ".5", "tru", "NaN", "-Infinity", "[1,]", "{'a':1}", '"']
)
_DEEP = st.builds(
    lambda opening, depth: opening * depth, st.sampled_from(["[", '{"a":', '[{"":']), st.integers(1, 9000)
)
_PIECES = st.lists(
    st.one_of(_BROKEN, _DEEP, st.sampled_from([*"{}[]:,", '"type"', '"publish"', '"data"', '"id"', "null", " "])),
    max_size=14,
).map("".join)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()  # a lone surrogate stays an escape


@given(st.binary(max_size=200) | _COMMANDS.map(dumped) | _PIECES.map(str.encode))
def test_an_invalid_command_is_a_bad_message(payload: bytes) -> None:
    with contextlib.suppress(BadMessage):
        _CODEC.decode(payload)


@given(_COMMANDS.map(dumped) | _PIECES.map(str.encode))
def test_every_error_can_be_sent(payload: bytes) -> None:
    try:
        _CODEC.decode(payload)
    except BadMessage as bad:
        [frame] = server_frames(_CODEC.frame(Error("bad_message", str(bad), bad.id, bad.room)))
        assert frame.event["code"] == "bad_message"


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(_VALUES)
def test_data_is_passed_on_unchanged_or_refused(value: Any) -> None:
    payload = dumped({"type": "publish", "room": "r", "id": "1", "data": value})
    if not _is_unicode(value):  # half a surrogate pair: many clients and Postgres cannot read it
        with pytest.raises(BadMessage):
            _CODEC.decode(payload)
        return
    command = _CODEC.decode(payload)
    assert isinstance(command, Publish)
    data = msgspec.Raw(bytes(command.data))
    [frame] = server_frames(_CODEC.frame(Delivery(room="r", seq=1, user="u", ts=0.5, data=data)))
    assert frame.event == {"type": "message", "room": "r", "seq": 1, "from": "u", "ts": 0.5, "data": value}
    ping = _CODEC.decode(dumped({"type": "ping", "t": value}))
    assert isinstance(ping, Ping)
    [frame] = server_frames(_CODEC.frame(Pong(ping.t)))
    assert frame.event == {"type": "pong", "t": value}


def _no_constant(name: str) -> None:
    raise ValueError(name)


@given(_PIECES | _BROKEN)
def test_no_client_gets_invalid_json(data: str) -> None:
    """The codec passes `data` on unread, so accepted data must be valid JSON for all other clients."""
    try:
        command = _CODEC.decode(b'{"type":"publish","room":"r","id":"1","data":%s}' % data.encode())
    except BadMessage:
        return
    assert isinstance(command, Publish)
    with contextlib.suppress(RecursionError):  # Python's own limit
        json.loads(bytes(command.data), parse_constant=_no_constant)
