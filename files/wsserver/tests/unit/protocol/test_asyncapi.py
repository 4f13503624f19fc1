# SPDX-License-Identifier: MIT
"""docs/asyncapi.yaml agrees with the service's types, and its references resolve."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator
from support.wire import server_frames

from wsserver import __version__
from wsserver.protocol import commands, events
from wsserver.protocol.codec import BadMessage
from wsserver.protocol.json_codec import JsonCodec
from wsserver.protocol.sse_codec import SseCodec

ROOT = Path(__file__).parents[5]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text())
COMMANDS = {kind.__name__ for kind in get_args(commands.Command)}
EVENTS = {kind.__name__ for kind in get_args(events.Event)}
EPOCH = "1700000000000"

ACCEPTED: list[dict[str, Any]] = [
    {"type": "join", "room": "lobby"},
    {"type": "join", "room": "zürich:\U0001f600", "since": {"epoch": EPOCH, "seq": 0}, "members": True},
    {"type": "join", "room": "r", "since": None, "from the future": 1},
    {"type": "leave", "room": "r" * 128},
    {"type": "publish", "room": "r", "data": {"any": [1, None]}, "id": "1"},
    {"type": "publish", "room": "r", "data": None, "id": "1"},
    {"type": "presence", "room": "r"},
    {"type": "presence", "room": "r", "after": "alice", "limit": 100},
    {"type": "history", "room": "r", "before": {"epoch": EPOCH, "seq": 7}, "limit": 1},
    {"type": "auth", "token": "x"},
    {"type": "ping"},
    {"type": "ping", "t": [1.5]},
    {"type": "join", "room": "r", "id": "1"},
    {"type": "leave", "room": "r", "id": "1"},
    {"type": "presence", "room": "r", "id": "1"},
    {"type": "history", "room": "r", "id": None},
    {"type": "auth", "token": "x", "id": "1"},
    {"type": "ping", "id": "1" * 128},
]
REFUSED: list[dict[str, Any]] = [
    {"type": "join"},
    {"type": "join", "room": ""},
    {"type": "join", "room": "r" * 129},
    {"type": "join", "room": "a room"},
    {"type": "join", "room": "\nr"},
    {"type": "join", "room": "r", "since": {"epoch": 1, "seq": 0}},
    {"type": "join", "room": "r", "since": {"epoch": "", "seq": 0}},
    {"type": "join", "room": "r", "since": {"epoch": EPOCH, "seq": 2**53}},
    {"type": "join", "room": "r", "members": "yes"},
    {"type": "publish", "room": "r", "id": "1"},
    {"type": "publish", "room": "r", "data": 1, "id": 1},
    {"type": "publish", "room": "r", "data": 1, "id": "i" * 129},
    {"type": "presence", "room": "r", "limit": 0},
    {"type": "history", "room": "r", "limit": 101},
    {"type": "auth", "token": ""},
    {"type": "leave", "room": "r", "id": ""},
    {"type": "ping", "id": 1},
    {"type": "welcome"},
]
SENT: list[events.Event] = [
    events.Welcome("alice", 25.0, 65536, 1.5),
    events.Joined("r", EPOCH, 1, True),
    events.Left("r"),
    events.Ack("1", "r", 1),
    events.Delivery("r", 1, "alice", 1.5, msgspec.Raw(b'{"a":null}')),
    events.Delivery("r", 1, "alice", 1.5, msgspec.Raw(b'{"a":null}'), EPOCH),
    events.Gap("r", 1, 2),
    events.Reset("r", EPOCH, 0),
    events.MemberEvent("r", "alice", "join"),
    events.PresencePage("r", [events.PresenceMember("alice", 2)], 1, False),
    events.HistoryPage("r", [events.HistoryMessage(EPOCH, 1, "alice", 1.5, msgspec.Raw(b"1"))], False),
    events.Authenticated(1.5),
    events.Expiring(1.5),
    events.Pong(msgspec.Raw(b"null")),
    events.Joined("r", EPOCH, 1, True, "1"),
    events.Left("r", "1"),
    events.PresencePage("r", [], 0, False, "1"),
    events.HistoryPage("r", [], False, "1"),
    events.Authenticated(1.5, "1"),
    events.Pong(msgspec.Raw(b"null"), "1"),
    events.Reconnect(100, "why"),
    events.Error("bad_message", "why"),
    events.Error("rate_limited", "why", "1", "r", 1000),
]


def conforms(name: str, value: Any) -> bool:
    """Whether `value` is valid for the message `name` of the document."""
    payload = DOCUMENT["components"]["messages"][name]["payload"]
    return bool(Draft202012Validator({**payload, "components": DOCUMENT["components"]}).is_valid(value))


def test_the_file_is_current() -> None:
    script = [sys.executable, ROOT / "tools/asyncapi.py", "--check"]
    check = subprocess.run(script, capture_output=True, text=True, check=False, timeout=50)
    assert check.returncode == 0, check.stderr
    assert DOCUMENT["info"]["version"] == __version__


@pytest.mark.parametrize("command", ACCEPTED, ids=json.dumps)
def test_accepted_commands_are_valid_in_the_document(command: dict[str, Any]) -> None:
    name = type(JsonCodec().decode(json.dumps(command).encode())).__name__
    assert conforms(name, command)
    assert not any(conforms(other, command) for other in COMMANDS - {name})


@pytest.mark.parametrize("command", REFUSED, ids=json.dumps)
def test_refused_commands_are_invalid_in_the_document(command: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        JsonCodec().decode(json.dumps(command).encode())
    assert not any(conforms(name, command) for name in COMMANDS)


@pytest.mark.parametrize("event", SENT, ids=lambda event: type(event).__name__)
def test_events_are_valid_in_the_document(event: events.Event) -> None:
    [frame] = server_frames(JsonCodec().frame(event))
    assert conforms(type(event).__name__, frame.event)
    assert not any(conforms(other, frame.event) for other in EVENTS - {type(event).__name__})


@pytest.mark.parametrize("event", SENT, ids=lambda event: type(event).__name__)
def test_an_event_stream_names_events_as_the_document_does(event: events.Event) -> None:
    name = type(event).__name__
    if name in DOCUMENT["channels"]["events"]["messages"]:
        lines = SseCodec().frame(event).decode().splitlines()
        fields = dict(line.split(": ", 1) for line in lines if line)
        assert fields.get("event", "message") == DOCUMENT["components"]["messages"][name]["name"]
        assert conforms(name, json.loads(fields["data"]))


def test_the_samples_are_of_every_kind() -> None:
    assert {type(JsonCodec().decode(json.dumps(command).encode())).__name__ for command in ACCEPTED} == COMMANDS
    assert {type(event).__name__ for event in SENT} == EVENTS


def test_every_message_has_its_channel_and_its_operation() -> None:
    assert set(DOCUMENT["channels"]["ws"]["messages"]) == COMMANDS | EVENTS
    received, sent = set(), set()
    for operation in DOCUMENT["operations"].values():
        named = {ref["$ref"].rpartition("/")[2] for ref in operation["messages"]}
        if operation["action"] == "receive":
            received |= named
            sent |= {ref["$ref"].rpartition("/")[2] for ref in operation["reply"]["messages"]}
        else:
            sent |= named
    assert received == COMMANDS
    assert sent == EVENTS | {"Closed"}


def test_every_reference_resolves() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 100
    for reference in found:
        assert reference.startswith("#/")
        target: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_the_schemas_are_schemas() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def references(part: Any) -> Iterator[str]:
    children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    if isinstance(part, dict) and isinstance(part.get("$ref"), str):
        yield part["$ref"]
    for child in children:
        yield from references(child)
