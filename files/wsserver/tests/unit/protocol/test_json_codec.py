# SPDX-License-Identifier: MIT
from __future__ import annotations

import contextlib
import json
import time
import timeit
import tracemalloc
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import server_frames

from wsserver.protocol.codec import BadMessage
from wsserver.protocol.commands import Join, Leave, Ping, Publish
from wsserver.protocol.events import Ack, Delivery, Error, Event, Gap, Joined, Left, Pong, Reconnect, Reset, Welcome
from wsserver.protocol.json_codec import NESTING_MAX, JsonCodec, nested_too_deeply
from wsserver.protocol.types import Since

CODEC = JsonCodec()


def decode(value: Any) -> Any:
    return CODEC.decode(json.dumps(value).encode())


def refused(payload: bytes) -> BadMessage:
    with pytest.raises(BadMessage) as bad:
        CODEC.decode(payload)
    return bad.value


def test_commands() -> None:
    assert decode({"type": "join", "room": "r"}) == Join("r")
    assert decode({"room": "r", "since": {"seq": 2**53 - 1, "epoch": "17"}, "type": "join"}) == Join(
        "r", Since("17", 2**53 - 1)
    )
    assert decode({"type": "join", "room": "r", "since": None, "of a later release": 1}) == Join("r")
    assert decode({"type": "leave", "room": "räume/1"}) == Leave("räume/1")
    assert decode({"type": "ping"}) == Ping(msgspec.Raw(b"null"))
    assert CODEC.decode(b'{"type":"ping","t": [1, 2.50] }') == Ping(msgspec.Raw(b"[1, 2.50]"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_data_passes_byte_for_byte(data: Any) -> None:
    for ascii_only in (True, False):
        try:
            encoded = json.dumps(data, ensure_ascii=ascii_only).encode()
        except UnicodeEncodeError:
            continue
        command = CODEC.decode(b'{"type":"publish","room":"r","id":"1","data":%s}' % encoded)
        assert isinstance(command, Publish)
        assert bytes(command.data) == encoded
        event = Delivery("r", 1, "u", 1.5, command.data)
        [frame] = server_frames(CODEC.frame(event))
        assert frame.event == {"type": "message", "room": "r", "seq": 1, "from": "u", "ts": 1.5, "data": data}


@given(st.binary())
def test_any_payload_is_a_command_or_refused(payload: bytes) -> None:
    with contextlib.suppress(BadMessage):
        CODEC.decode(payload)


@pytest.mark.parametrize(
    "event",
    [
        Welcome("u", 25, 65536, 1.0),
        Joined("r", "17", 3, True),
        Left("r"),
        Ack("1", "r", 4),
        Gap("r", 2, 5),
        Reset("r", "18", 0),
        Reconnect(250, "why"),
        Error("bad_message", "why", "1"),
    ],
)
def test_events_are_whole_text_frames(event: Event) -> None:
    [frame] = server_frames(CODEC.frame(event))
    assert frame.opcode == 1
    assert frame.event == msgspec.to_builtins(event) | {"type": type(event).__name__.lower()}


def test_a_pong_returns_what_the_ping_brought() -> None:
    assert server_frames(CODEC.frame(Pong(msgspec.Raw(b"[1]"))))[0].event == {"type": "pong", "t": [1]}


def test_an_error_without_an_id_has_no_id() -> None:
    assert server_frames(CODEC.frame(Error("c", "m")))[0].event == {"type": "error", "code": "c", "message": "m"}


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_of_every_length(size: int) -> None:
    [frame] = server_frames(CODEC.frame(Reconnect(1, "x" * size)))
    assert frame.event["reason"] == "x" * size


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ({"type": "join"}, "room"),
        ({"type": "join", "room": 1}, "room"),
        ({"type": "join", "room": ""}, "room"),
        ({"type": "join", "room": "a b"}, "room"),
        ({"type": "join", "room": "a\n"}, "room"),
        ({"type": "join", "room": "x" * 129}, "room"),
        ({"type": "join", "room": "r", "since": {"seq": 1}}, "epoch"),
        ({"type": "join", "room": "r", "since": {"epoch": "1"}}, "seq"),
        ({"type": "join", "room": "r", "since": {"epoch": "x", "seq": 1}}, "since.epoch"),
        ({"type": "join", "room": "r", "since": {"epoch": "1", "seq": -1}}, "since.seq"),
        ({"type": "join", "room": "r", "since": {"epoch": "1", "seq": 2**53}}, "since.seq"),
        ({"type": "join", "room": "r", "since": {"epoch": "1", "seq": 10**400}}, "since.seq"),
        ({"type": "publish", "room": "r", "id": "1"}, "data"),
        ({"type": "publish", "room": "r", "data": 1}, "id"),
        ({"type": "publish", "room": "r", "data": 1, "id": "x" * 129}, "id"),
        ({"type": "publish", "room": "r", "data": 1, "id": 7}, "id"),
        ({"type": "shout"}, "type"),
        ({"room": "r"}, "type"),
    ],
)
def test_errors_name_the_field(command: Any, named: str) -> None:
    assert named in str(refused(json.dumps(command).encode()))


COMMANDS: list[dict[str, Any]] = [
    {"type": "join", "room": "r"},
    {"type": "leave", "room": "r"},
    {"type": "publish", "room": "r", "data": 1},
    {"type": "presence", "room": "r"},
    {"type": "history", "room": "r"},
    {"type": "auth", "token": "T"},
    {"type": "ping"},
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command["type"])
def test_every_command_may_have_an_id(command: dict[str, Any]) -> None:
    assert decode({**command, "id": "x"}).id == "x"
    for wrong in ("", "x" * 129, 7, {}):
        assert "id" in str(refused(json.dumps({**command, "id": wrong}).encode()))


@pytest.mark.parametrize(
    ("payload", "id", "room"),
    [
        (b'{"type":"publish","id":"7","room":"","data":1}', "7", ""),
        (b'{"type":"publish","id":"","room":"r","data":1}', "", "r"),
        (b'{"type":"publish","id":7,"room":"r","data":1}', None, "r"),
        (b'{"type":"history","id":"7","room":["r"]}', "7", None),
        (b'{"type":"history","id":"7","room":"r","limit":101}', "7", "r"),
        (b'{"type":"history","id":"' + b"7" * 500 + b'","room":"r"}', "7" * 500, "r"),
        (b'{"type":"history","id":"' + b"7" * 5000 + b'","room":"r"}', None, "r"),
        (b'{"type":"shout","id":"7","room":"a b"}', "7", "a b"),
        (b'{"id":"7"}', "7", None),
        (b"[]", None, None),
        (b"", None, None),
        # Half a surrogate pair, bad UTF-8, and other text that is no JSON.
        (b'{"type":"publish","room":"r","data":"\\ud83d","id":"7"}', "7", "r"),
        (b'{"type":"publish","id":"7","room":"r","data":{"id":"8","x":"\\ud83d"}}', "7", "r"),
        (b'{"type":"publish","data":{"x":"\\ud83d","id":"8","room":"s"}}', None, None),
        (b'{"type":"publish","room":"r","data":"\xff","id":"7"}', "7", "r"),
        (b'{"type":"publish","room":"\xff","data":1,"id":"7"}', "7", None),
        (b' { "type" : "publish" , "data" : NaN , "id" : "7" , "room" : "r" } ', "7", "r"),
        (b'{"type":"publish","data":[1,],"ts":1.5e3,"id":"7","room":"\\"r"}', "7", '"r'),
        (b'{"type":"history","id":"7","room":"r","before":{', "7", "r"),
        (b'{"type":"publish","id":"7","room":"r","data":' + b"[" * 5000, "7", "r"),
        (b'{"type":"publish","data":' + b"[" * 5000 + b"]" * 5000 + b',"id":"7","room":"r"}', "7", "r"),
        (b'{"type":"publish","data":"' + b'\\"id\\":\\"8\\",' * 9 + b'\\ud83d","room":"r"}', None, "r"),
    ],
)
def test_errors_name_the_id_and_the_room_that_can_be_read(payload: bytes, id: str | None, room: str | None) -> None:
    bad = refused(payload)
    assert (bad.id, bad.room) == (id, room)


@pytest.mark.parametrize("piece", [b'"a":1,', b',"a":1', b'"', b'{"a":', b"\\", b'"a" :', b" ", b"1", b'","'])
def test_broken_json_costs_no_time(piece: bytes) -> None:
    for payload in (b"{" + piece * 20_000, b"{" + piece * 20_000 + b"}", piece * 20_000 + b' "'):
        started = time.perf_counter()
        for _ in range(10):
            refused(payload[:65536])
        assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nul",
        b"NaN",
        b"01",
        b"1 2",
        b"[1,]",
        b'{"a":1,}',
        b'"a\nb"',
        b'"\\x"',
        b'"\\ud800"',  # half a surrogate pair is no text
        b'"\xff"',
        b"[" * 30_000 + b"]" * 30_000,
        b"[" * 60_000,
    ],
)
def test_data_that_is_no_json_is_refused(data: bytes) -> None:
    refused(b'{"type":"publish","room":"r","id":"1","data":%s}' % data)
    refused(b'{"type":"ping","t":%s}' % data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"[]," * 1000 + b"0]",
        b'"' + b"[" * 1000 + b'"',
        b'["\\"' + b"{" * 1000 + b'","\\\\",[]]',
    ],
)
def test_many_brackets_are_not_nested(data: bytes) -> None:
    command = CODEC.decode(b'{"type":"publish","room":"r","id":"1","data":%b}' % data)
    assert isinstance(command, Publish)
    assert bytes(command.data) == data


def test_data_that_is_nested_too_deeply_is_refused() -> None:
    for depth, fits in ((NESTING_MAX, True), (NESTING_MAX + 1, False), (900, False)):
        for opening, closing in ((b"[", b"]"), (b'{"]":', b"}")):
            data = opening * depth + b"0" + closing * depth
            payload = b'{"type":"publish","room":"r","id":"1","data":%b}' % data
            if fits:
                CODEC.decode(payload)
                continue
            with pytest.raises(BadMessage, match="nested more than 128 deep") as refused:
                CODEC.decode(payload)
            assert refused.value.id == "1"


_MARKS = st.text(alphabet='[]{}"\\,:n ', max_size=8)
_MARKED = st.recursive(
    _MARKS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_MARKS, inner, max_size=3), max_leaves=20
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@given(_MARKED)
def test_brackets_in_strings_do_not_nest(value: Any) -> None:
    """Data of the greatest depth, with enough brackets in strings that the codec counts."""
    data = msgspec.json.encode(value)
    filler = msgspec.json.encode("[" * NESTING_MAX)
    for depth, fits in ((NESTING_MAX, True), (NESTING_MAX + 1, False)):
        around = depth - 1 - _depth(value)
        nested = b"[%b,%b%b%b]" % (filler, b"[" * around, data, b"]" * around)
        assert nested_too_deeply(nested) != fits


def deep(depth: int, count: int) -> Any:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return [value] * count


@pytest.mark.parametrize(
    "value",
    ["[" * 60_000, "n[" * 30_000, '["' * 20_000, "[\\" * 20_000, ["["] * 15_000, [["["], ""] * 7_000, [[]] * 20_000],
    ids=["long", "mixed", "quotes", "backslashes", "strings", "lists of strings", "lists"],
)
def test_counting_the_depth_takes_the_memory_of_the_message_a_few_times(value: Any) -> None:
    data = msgspec.json.encode(value)
    tracemalloc.start()
    try:
        assert not nested_too_deeply(data)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * len(data)


@given(st.lists(st.booleans(), min_size=150, max_size=300), st.integers(0, NESTING_MAX))
def test_any_tree_is_measured_exactly(steps: list[bool], start: int) -> None:
    depths = [start]
    for deeper in steps:
        depths.append(depths[-1] + (1 if deeper or depths[-1] == 0 else -1))
    tree = b"".join(b"[" if after > before else b"]" for before, after in pairwise(depths))
    assert nested_too_deeply(b"[" * start + tree + b"]" * depths[-1]) == (max(depths) > NESTING_MAX)


@pytest.mark.parametrize("value", [[[]] * 21_000, deep(100, 300), deep(8, 3_500)], ids=["flat", "deep", "teeth"])
def test_many_brackets_cost_little(value: Any) -> None:
    """A third of the time that a step for each bracket would take, which no client may demand."""
    data = msgspec.json.encode(value)
    ours = min(timeit.repeat(lambda: nested_too_deeply(data), number=1, repeat=20))
    each = min(
        timeit.repeat(lambda: max(accumulate(map({91: 1, 93: -1, 44: 0}.__getitem__, data))), number=1, repeat=20)
    )
    assert ours < each / 2


def test_the_last_of_duplicate_keys_counts() -> None:
    command = CODEC.decode(b'{"type":"publish","room":"a","room":"b","id":"1","data":1,"data":2}')
    assert command == Publish("b", msgspec.Raw(b"2"), "1")
