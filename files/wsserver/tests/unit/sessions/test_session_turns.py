# SPDX-License-Identifier: MIT
"""Many sessions that have much to do at once, and one that has little."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
from support.services import make_services

from wsserver.archive.history import History
from wsserver.auth import Identity
from wsserver.protocol.commands import Command, Ping
from wsserver.protocol.json_codec import JsonCodec
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.hub import Hub
from wsserver.runtime import slices
from wsserver.sessions import session as session_module
from wsserver.sessions.context import SessionContext
from wsserver.sessions.session import Session
from wsserver.storage.memory.broker import MemoryBroker

SLICE = 0.005
COMMAND = 0.001  # what the clock gains in each command


class Client:
    """The connection of one session. `holds`: each change of reading."""

    def __init__(self, user: str, context: SessionContext) -> None:
        self.holds: list[bool] = []
        self.throttles = 0
        self.session = Session(Identity(user, 2e9, ("*",), ("*",)), JsonCodec(), self, context)

    def send(self, count: int) -> None:
        for number in range(count):
            self.session.receive(json.dumps({"type": "ping", "t": number}).encode())

    def write(self, chunk: bytes) -> None: ...

    def hold_reading(self, hold: bool) -> None:
        if hold != (self.holds[-1] if self.holds else False):
            self.holds.append(hold)

    def throttle(self) -> None:
        self.throttles += 1

    def renewed(self) -> None: ...


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The users of the commands so far, and the number of each of their commands."""
    found: list[tuple[str, int]] = []
    now = 0.0
    carry_out = Session.carry_out

    def counted(self: Session, command: Command) -> None:
        nonlocal now
        now += COMMAND
        assert isinstance(command, Ping)
        found.append((self.identity.user, json.loads(bytes(command.t))))
        carry_out(self, command)

    monkeypatch.setattr(Session, "carry_out", counted)
    monkeypatch.setattr(slices, "time", SimpleNamespace(monotonic=lambda: now))
    return found


@pytest.fixture
def context() -> SessionContext:
    broker, writer = MemoryBroker(100), BatchWriter()
    return make_services(Hub(broker, History(broker, None), writer), broker, writer, messages_per_s=100)


async def test_a_session_with_little_to_do_waits_for_few_commands_of_the_others(
    context: SessionContext, done: list[tuple[str, int]]
) -> None:
    crowd = [Client(f"u{number}", context) for number in range(10)]
    bob = Client("bob", context)
    for client in crowd:
        client.send(50)
    bob.send(1)
    assert len(done) <= SLICE / COMMAND + 1, "the first turn"
    turns = [len(done)]
    while len(done) < 501:
        await asyncio.sleep(0)
        turns.append(len(done))
    assert all(after - before <= SLICE / COMMAND + 1 for before, after in pairwise(turns))
    assert done.index(("bob", 0)) <= len(crowd) * session_module._COMMANDS_IN_TURN
    for client in crowd:
        assert [number for user, number in done if user == client.session.identity.user] == list(range(50))
        assert client.holds == [True, False], "it is not read while many of its commands wait"
    assert bob.holds == []


async def test_commands_that_wait_for_a_turn_end_with_their_session(
    context: SessionContext, done: list[tuple[str, int]]
) -> None:
    client = Client("u", context)
    client.send(50)
    before = len(done)
    client.session.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(done) == before


async def test_commands_that_wait_for_a_turn_are_carried_out_if_the_client_closes(
    context: SessionContext, done: list[tuple[str, int]]
) -> None:
    client = Client("u", context)
    client.send(50)
    client.session.finish()
    client.session.close()
    assert done == [("u", number) for number in range(50)]


async def test_throttled_sessions_take_turns_when_they_may_go_on(
    context: SessionContext, done: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = [Client(f"u{number}", context) for number in range(5)]
    for client in crowd:
        client.send(400)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert all(client.throttles for client in crowd)
    before = len(done)
    for client in crowd:
        monkeypatch.setattr(client.session._flow, "_frames_paid", 0.0)
        assert client.session.resume_if_paid()
    assert len(done) - before <= SLICE / COMMAND + 1
    for _ in range(3):
        await asyncio.sleep(0)
    assert len({user for user, _number in done[before:]}) > 1
