# SPDX-License-Identifier: MIT
"""The Python client for the scenarios."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from support.scripted import Scripted
from support.wait import until
from support.watching import watching
from wsserver.client import Client, Message, Page, Position, Room, State, backoff, credentials, publishes, requests
from wsserver.protocol.events import Event, PresencePage
from wsserver.witness import Witness


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the waits between connections, which would keep growing, because a test's connections are short.

    Also shorten the wait after a refusal, and the deadline of factories.
    """
    monkeypatch.setattr(backoff, "MOST_S", 0.5)
    monkeypatch.setattr(credentials, "AGAIN_S", 0.2)
    monkeypatch.setattr(credentials, "ASK_S", 2)


def _plain(value: Any) -> Any:
    match value:
        case Message():
            return dataclasses.asdict(value)
        case Page():
            return {"messages": [_plain(message) for message in value.messages], "more": value.more}
        case PresencePage():
            return {
                "members": msgspec.to_builtins(value.members),
                "count": value.count,
                "more": value.more,
            }
        case _:
            return value


async def _outcome(call: Awaitable[Any]) -> dict[str, Any]:
    try:
        return {"value": _plain(await call)}
    except Exception as exc:
        code = {"code": exc.code} if hasattr(exc, "code") else {}
        return {"name": type(exc).__name__, "message": str(exc), **code}


class _Call:
    def __init__(self, call: Awaitable[Any]) -> None:
        self._task = asyncio.create_task(_outcome(call))

    async def outcome(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._task, 30)


class PythonDriver:
    """Receives the messages of each room by iteration."""

    hang_up_code = 1000
    abort_code = 1006
    refusal = "401"
    lost_ping = "Closed"
    invalid = "ValueError"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, url: str, **options: Any) -> None:
        self._monkeypatch = monkeypatch
        self._states: list[tuple[str, str]] = []
        self._events: list[Event] = []
        self._messages: list[Message] = []
        self._rooms: dict[str, Room] = {}
        self._readers: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self._client = Client(url, on_state=self._on_state, on_event=self._events.append, **options)

    def _on_state(self, state: State, reason: str) -> None:
        self._states.append((str(state), reason))

    async def connect(self) -> None:
        await self._client.__aenter__()

    async def close(self) -> None:
        await self._client.close()

    async def retry_now(self) -> None:
        self._client.retry_now()

    async def begin(self, method: str, *arguments: Any, **options: Any) -> _Call:
        options |= {name: Position(**options[name]) for name in ("since", "before") if name in options}
        if method in ("join", "leave", "ping"):
            call = _Call(getattr(self, f"_{method}")(*arguments, **options))
        else:
            call = _Call(getattr(self._client, method)(*arguments, **options))
        await asyncio.sleep(0)  # the call begins before the next one
        return call

    async def _join(self, name: str, **options: Any) -> None:
        room = self._rooms[name] = await self._client.join(name, **options)
        self._readers[name] = asyncio.create_task(_outcome(self._read(room)))

    async def _leave(self, name: str) -> None:
        await self._client.leave(self._rooms.get(name) or self._client.rooms[name])
        if name in self._readers:
            assert await self._readers[name] == {"value": None}, "the iteration ends"

    async def _ping(self) -> float:
        return await self._client.ping() * 1000

    async def _read(self, room: Room) -> None:
        async for message in room:
            self._messages.append(message)

    async def messages(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: len(self._messages) >= count)
        return [_plain(message) for message in self._messages]

    async def events(self, *types: str) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(event) for event in self._events if event.__struct_config__.tag in types]

    async def states(self) -> list[tuple[str, str]]:
        return self._states

    async def until(self, *, state: str = "", connects: int = 0) -> None:
        client = self._client
        await until(
            lambda: client.state == (state or client.state) and client.connects == (connects or client.connects)
        )

    async def room(self, name: str) -> dict[str, Any]:
        room = self._rooms[name]
        return {"position": room.position and room.position._asdict(), "recovered": room.recovered}

    async def rooms(self) -> list[str]:
        return list(self._client.rooms)

    async def expelled(self, room: str) -> dict[str, Any]:
        return await asyncio.wait_for(self._readers[room], 30)

    async def counts(self) -> dict[str, int]:
        client = self._client
        return {"duplicates": client.duplicates, "holes": client.holes, "connects": client.connects}

    async def sleep(self, seconds: float) -> None:
        running = time.clock_gettime
        self._monkeypatch.setattr(time, "clock_gettime", lambda clock: running(clock) + seconds)

    @asynccontextmanager
    async def refused(self, server: Scripted, times: int) -> AsyncIterator[None]:
        server.refusals = [401] * times
        yield


@asynccontextmanager
async def python_driver(
    monkeypatch: pytest.MonkeyPatch, url: str, hurried: bool = False, **options: Any
) -> AsyncIterator[PythonDriver]:
    if hurried:
        monkeypatch.setattr(requests, "ANSWER_S", 1.5)
        monkeypatch.setattr(publishes, "_CHECK_S", 0.5)
    driver = PythonDriver(monkeypatch, url, **options)
    try:
        yield driver
    finally:
        await driver.close()


class PythonTalk:
    """A conversation of a small witness."""

    def __init__(self, witness: Witness) -> None:
        self._clients = witness.clients

    @property
    def clients(self) -> int:
        return len(self._clients)

    async def until_cut_off(self) -> None:
        await until(lambda: not any(client.connected for client in self._clients))

    async def until_back(self) -> None:
        await until(lambda: all(client.connected and client.disconnects for client in self._clients))


@asynccontextmanager
async def python_talk(url: str) -> AsyncIterator[PythonTalk]:
    async with watching(url) as witness:
        yield PythonTalk(witness)
