# SPDX-License-Identifier: MIT
"""The JavaScript client in a tab, for the scenarios."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser

from support.browser import Tab, tab
from support.conversation import Conversation
from support.scripted import Scripted
from support.worker import SECRET
from wsserver.auth import mint

_OPTIONS = {
    "token": "token",
    "token_factory": "tokenFactory",
    "ticket_factory": "ticketFactory",
    "max_unacknowledged": "maxUnacknowledged",
}
# Keeps the rooms by name, and whole messages. Waits between connections are short: a test's connections are short, so the
# waits would keep growing. The deadline of factories is short as well.
_PREPARE = """
    window.rooms = {};
    window.messages = [];
    window.onMessage = (message) => messages.push(message);
    Math.random = () => 0.02;
    const realTimeout = setTimeout;
    window.setTimeout = (work, ms) => realTimeout(work, ms === 30000 ? 2000 : ms);
"""


class _Call:
    def __init__(self, tab: Tab, name: str) -> None:
        self._tab = tab
        self._name = name

    async def outcome(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            outcome: dict[str, Any] = await self._tab(self._name)
        return outcome if "name" in outcome else {"value": outcome.get("value")}


class BrowserDriver:
    """Receives the messages of all rooms in one function."""

    hang_up_code = 1005
    abort_code = 1005
    refusal = "1008"
    lost_ping = "Error"
    invalid = "TypeError"

    def __init__(self, tab: Tab) -> None:
        self._tab = tab
        self._calls = 0

    async def connect(self) -> None:
        await self._tab("client.connect()")

    async def close(self) -> None:
        await self._tab("client.close()")

    async def retry_now(self) -> None:
        await self._tab("client.retryNow()")

    async def begin(self, method: str, *arguments: Any, **options: Any) -> _Call:
        self._calls += 1
        name = f"call{self._calls}"
        given = ", ".join(map(json.dumps, [*arguments, options]))
        match method:
            case "join":
                room = json.dumps(arguments[0])
                call = f"client.join({room}, {{ ...{json.dumps(options)}, onMessage }})"
                call += f".then((room) => {{ rooms[{room}] = room; }})"
            case "leave":
                room = json.dumps(arguments[0])
                call = f"client.leave(rooms[{room}] ?? client.rooms.get({room}))"
            case _:
                call = f"client.{method}({given})"
        await self._tab.run(f"window.{name} = outcome({call})")
        return _Call(self._tab, name)

    async def messages(self, count: int) -> list[dict[str, Any]]:
        await self._tab.until(f"messages.length >= {count}")
        messages: list[dict[str, Any]] = await self._tab("messages")
        return messages

    async def events(self, *types: str) -> list[dict[str, Any]]:
        return await self._tab.told(*types)

    async def states(self) -> list[tuple[str, str]]:
        return [(event["state"], event["reason"]) for event in await self._tab.told("state")]

    async def until(self, *, state: str = "", connects: int = 0) -> None:
        wanted = [f"client.state === {json.dumps(state)}"] if state else []
        wanted += [f"client.connects === {connects}"] if connects else []
        await self._tab.until(" && ".join(wanted))

    async def room(self, name: str) -> dict[str, Any]:
        room: dict[str, Any] = await self._tab(
            f"(({{ position, recovered }}) => ({{ position, recovered }}))(rooms[{json.dumps(name)}])"
        )
        return room

    async def rooms(self) -> list[str]:
        rooms: list[str] = await self._tab("[...client.rooms.keys()]")
        return rooms

    async def expelled(self, room: str) -> dict[str, Any]:
        event = f"events.find((event) => event.type === 'removed' && event.room === rooms[{json.dumps(room)}])"
        await self._tab.until(event)
        outcome: dict[str, Any] = await self._tab(f"outcome(Promise.reject({event}.error))")
        return outcome

    async def counts(self) -> dict[str, int]:
        counts: dict[str, int] = await self._tab(
            "(({ duplicates, holes, connects }) => ({ duplicates, holes, connects }))(client)"
        )
        return counts

    async def sleep(self, seconds: float) -> None:
        await self._tab.run(f"const later = Date.now() + {seconds * 1000}; Date.now = () => later")

    @asynccontextmanager
    async def refused(self, server: Scripted, times: int) -> AsyncIterator[None]:
        """A page does not see the status of a handshake, so the server accepts and closes."""
        yield
        for _ in range(times):
            await (await server.peer()).connection.close(1008, "the token has expired")


def _source(options: dict[str, Any]) -> tuple[str, dict[str, Callable[..., Any]]]:
    """The options in JavaScript, and the functions of the test that they name."""
    functions = {_OPTIONS[name]: value for name, value in options.items() if callable(value)}
    given = [f"{_OPTIONS[name]}: {json.dumps(value)}" for name, value in options.items() if not callable(value)]
    return f"{{ {', '.join([*given, *functions])} }}", functions


@asynccontextmanager
async def browser_driver(
    browser: Browser, url: str, hurried: bool = False, **options: Any
) -> AsyncIterator[BrowserDriver]:
    source, functions = _source(options)
    changes = {"ANSWER_MS = 60_000": "ANSWER_MS = 1_500", "CHECK_MS = 15_000": "CHECK_MS = 500"} if hurried else {}
    async with tab(browser, changes=changes, **functions) as page:
        await page.run(_PREPARE)
        await page.make(url, source)
        yield BrowserDriver(page)


class BrowserTalk:
    """A conversation of three tabs."""

    def __init__(self, conversation: Conversation) -> None:
        self._tabs = conversation.tabs

    @property
    def clients(self) -> int:
        return len(self._tabs)

    async def until_cut_off(self) -> None:
        for page in self._tabs:
            await page.until("client.state === 'reconnecting'")

    async def until_back(self) -> None:
        for page in self._tabs:
            await page.until("client.state === 'connected' && client.connects >= 2")


@asynccontextmanager
async def browser_talk(browser: Browser, url: str) -> AsyncIterator[BrowserTalk]:
    conversation = Conversation(browser, url, [mint(SECRET, name, 600) for name in ("alice", "bob", "carol")])
    async with conversation.under_way():
        yield BrowserTalk(conversation)
