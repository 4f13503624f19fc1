# SPDX-License-Identifier: MIT
"""Clients that send random commands in any order: each command has one answer, and the worker runs
on.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.worker import SECRET, Worker
from websockets.sync.client import connect

from wsserver.auth import mint

# Events that are no answers.
_NEWS = {"message", "member", "gap", "reset"}


class Command(NamedTuple):
    payload: str
    answer: str  # the type of the answer, if it is no error
    about: dict[str, Any]  # what the answer has in common with the command


def _commands(kind: str, answer: str, about: str = "", **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Command]:
    """`about`: the field that the answer repeats, besides the id of the command."""

    def made(values: dict[str, Any]) -> Command:
        repeated = {name: values[name] for name in (about, "id") if name in values}
        return Command(json.dumps({"type": kind, **values}), answer, repeated)

    ids = {} if kind == "publish" else {"id": st.sampled_from(["x", "y"])}
    return st.fixed_dictionaries(fields, optional=ids).map(made)


_rooms = st.sampled_from(["a", "b", "\u00e9:1", "x" * 128])
_since = st.none() | st.fixed_dictionaries(
    {"epoch": st.sampled_from(["0", "1", "9" * 15]), "seq": st.sampled_from([0, 1, 2**53 - 1])}
)
_ids = st.integers(0, 5).map("good {}".format)
_data = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.booleans(), max_size=3)
_limits = st.integers(1, 100)
_good = st.one_of(
    _commands("join", "joined", "room", room=_rooms, since=_since, members=st.booleans()),
    _commands("leave", "left", "room", room=_rooms),
    _commands("publish", "ack", "id", room=_rooms, data=_data, id=_ids),
    _commands("ping", "pong", "t", t=_data),
    _commands("presence", "presence", "room", room=_rooms, after=st.text(max_size=3), limit=_limits),
    _commands("history", "history", "room", room=_rooms, before=_since, since=_since, limit=_limits),
    _commands("auth", "error", token=st.just("no token")),
)
_bad = st.one_of(
    st.text(max_size=20).map(lambda text: Command("!" + text, "error", {})),
    st.sampled_from(
        [
            Command("[]", "error", {}),
            Command("null", "error", {}),
            Command('{"type":"welcome"}', "error", {}),
            Command('{"type":"publish","room":"a","data":1}', "error", {}),
            Command('{"type":"publish","room":"a","id":"bad 1"}', "error", {"id": "bad 1"}),
            Command('{"type":"publish","room":"a b","data":1,"id":"bad 2"}', "error", {"id": "bad 2"}),
            Command('{"type":"join","room":""}', "error", {"room": ""}),
            Command('{"type":"history","room":"a","limit":0,"id":"bad 3"}', "error", {"id": "bad 3", "room": "a"}),
            Command('{"type":"publish","room":"a","data":"\\ud83d","id":"bad 4"}', "error", {"id": "bad 4"}),
            Command('{"type":"join","room":"a","since":{"epoch":"1","seq":-1}}', "error", {}),
            Command('{"type":"history","room":"a","limit":0}', "error", {}),
            Command('{"type":"ping","t":' + "[" * 5000 + "}", "error", {}),
        ]
    ),
)
_end = Command('{"type":"ping","t":"the end"}', "pong", {"t": "the end"})


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    plenty = {
        "WS_MESSAGES_PER_S": "100000",
        "WS_BYTES_PER_S": str(2**30),
        "WS_USER_MESSAGES_PER_S": "1000000",
        "WS_USER_BYTES_PER_S": str(2**30),
        "WS_USER_QUERIES_PER_S": "1000000",
    }
    started = Worker("unix:///nowhere", WS_BROKER="memory", WS_LOG_LEVEL="warning", **plenty)
    asyncio.run(started.ready())
    yield started
    started.remove()


def talk(worker: Worker, commands: list[Command], listen: bool) -> None:
    headers = {"Authorization": f"Bearer {mint(SECRET, 'fuzz', 600)}"}
    with connect(
        f"ws://127.0.0.1:{worker.port}/ws", additional_headers=headers, compression=None, proxy=None
    ) as client:
        assert json.loads(client.recv(20))["type"] == "welcome"
        for command in commands:
            client.send(command.payload)
        if not listen:
            client.socket.close()
            return
        in_order = [command for command in commands if command.answer != "ack"]
        unanswered = Counter(command.about["id"] for command in commands if command.answer == "ack")
        while in_order or unanswered:
            event = json.loads(client.recv(20))
            if event["type"] in _NEWS:
                continue
            if event.get("id") in unanswered:
                assert event["type"] == "ack", event
                unanswered -= Counter([event["id"]])
                continue
            command = in_order.pop(0)
            assert event["type"] in (command.answer, "error"), (command, event)
            assert command.about.items() <= event.items(), (command, event)


@given(st.lists(_good | _bad, max_size=25), st.integers(0, 9))
def test_every_command_has_its_one_answer(worker: Worker, commands: list[Command], ending: int) -> None:
    talk(worker, [*commands, _end], listen=ending > 0)
    assert worker.process.poll() is None
    assert worker.output() == ""
