# SPDX-License-Identifier: MIT
"""Features that only the JavaScript client has, in Chromium: browser features, and the events for a
page.

test_both_clients.py tests the features that both clients have.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser
from support.browser import ORIGIN, Tab, tab
from support.proxy import proxy
from support.scripted import Peer, Scripted, scripted
from support.wait import until
from support.worker import SECRET, Worker

from wsserver.auth import mint

# A browser on a busy machine is slow.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

Start = Callable[..., Worker]


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[Scripted]:
    async with scripted() as server:
        yield server


@asynccontextmanager
async def alice(browser: Browser, server: Scripted) -> AsyncIterator[tuple[Tab, Peer]]:
    """A tab whose client is connected, and the other end of its connection."""
    async with tab(browser) as page:
        await page.make(server.url)
        peer, _ = await asyncio.gather(server.welcomed(), page("client.connect()"))
        yield page, peer


async def begin(page: Tab, name: str, javascript: str) -> None:
    """Start a promise. `ended` returns its outcome."""
    await page.run(f"window.{name} = outcome({javascript})")


async def ended(page: Tab, name: str) -> Any:
    async with asyncio.timeout(30):
        return await page(name)


# One connection.


async def test_an_application_that_fails_does_not_end_the_connection(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await page.run("window.onMessage = ({ seq }) => { seqs.push(seq); throw new Error('mine'); }")
        await begin(page, "joining", "client.join('r', { onMessage }).then(() => {})")
        await peer.receive("join")
        await peer.joined()
        for seq in (1, 2):
            await peer.message(seq)
        await page.until("seqs.length === 2")
        assert await page("client.connects") == 1
        assert page.complaints == ["mine", "mine"]
        page.complaints.clear()


async def test_what_is_no_publish_is_a_type_error(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await begin(page, "publishing", "client.publish('r', 0, { id: '0' })")
        await peer.receive("publish")
        assert (await page("outcome(client.publish('r', 0, { id: '0' }))"))["name"] == "TypeError"
        assert (await page("outcome(client.publish('r', undefined))"))["name"] == "TypeError"
        await peer.send("ack", id="0", room="r", seq=10)
        assert await ended(page, "publishing") == {"value": 10}


# From one connection to the next.


async def test_a_server_that_sends_no_welcome_is_left(browser: Browser, server: Scripted) -> None:
    async with tab(browser) as page:
        await page.make(server.url)
        await page.run("client.connect()")
        await server.peer()
        await server.welcomed()
        await page.until("client.state === 'connected'")


async def test_the_client_dials_at_once_when_the_browser_is_online_again(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await peer.send("reconnect", after_ms=600_000, reason="going away")
        await page.run("events.length = 0")
        await peer.connection.close(1001)
        await page.until("client.state === 'reconnecting'")
        await server.no_peer(within_s=0.5)
        await page.run("dispatchEvent(new Event('online'))")
        await server.welcomed()
        await page.until("client.state === 'connected'")


async def test_waits_grow_and_are_spread(browser: Browser) -> None:
    """A fake clock records each wait and ends it at once."""
    async with proxy() as nowhere, tab(browser) as page:
        nowhere.ports = [1]
        for random, waits in (
            (0.25, [250, 500, 1000, 2000, 4000, 5000, 5000]),
            (0.999, [999, 1998, 3996, 7992, 15984, 19980, 19980]),
        ):
            await page.run(
                f"""
                    Math.random = () => {random};
                    window.waits = [];
                    window.realTimeout ??= setTimeout;
                    window.setTimeout = (work, ms) => {{
                        if (ms !== 10000) waits.push(ms);  // except the deadline of a handshake
                        return realTimeout(work, ms === 10000 ? ms : 0);
                    }};
                """
            )
            await page.make(nowhere.url)
            await page.run("client.connect().catch(() => {})")
            await page.until("waits.length >= 7")
            await page.run("client.close()")
            assert (await page("waits"))[:7] == waits


# Permissions.


@pytest.mark.parametrize("options", ["{}", "undefined", "{ token: 'T', tokenFactory() {} }"])
async def test_exactly_one_kind_of_credentials(browser: Browser, options: str) -> None:
    async with tab(browser) as page:
        outcome = await page(f"outcome((async () => make('ws://localhost:1', {options}))())")
        assert "one of" in outcome["message"]


async def test_a_url_that_the_browser_refuses_is_final(browser: Browser) -> None:
    async with tab(browser) as page:
        for url, token in (("nonsense://x", "T"), ("ws://localhost:1/ws", "no token")):
            await page.make(url, f"{{ token: '{token}' }}")
            assert (await page("outcome(client.connect())"))["name"] == "Closed"


async def test_a_refused_token_is_final_and_nothing_else_is(browser: Browser, server: Scripted) -> None:
    server.refusals = [503, 429]
    async with tab(browser) as page:
        await page.make(server.url)
        await begin(page, "connecting", "client.connect()")
        for _ in range(2):
            await (await server.peer()).connection.close(1008, "the token has expired")
        outcome = {"name": "Closed", "message": "closed with 1008: the token has expired"}
        assert await ended(page, "connecting") == outcome
        for call in ("connect()", "publish('r', 1)", "join('r')", "ping()"):
            assert await page(f"outcome(client.{call})") == outcome
        assert await page.states() == ["connecting", "connecting", "connecting", "closed"]


# Real workers.


@pytest.fixture
def start_for_pages(start: Start) -> Start:
    def start_worker(**settings: str) -> Worker:
        return start(**{"WS_ALLOWED_ORIGINS": ORIGIN, **settings})

    return start_worker


async def test_a_token_that_expires_is_renewed(browser: Browser, start_for_pages: Start) -> None:
    worker = await start_for_pages(WS_HEARTBEAT_S="2").ready()
    lives = [15, 15, 600]

    async def token() -> str:
        return mint(SECRET, "alice", lives.pop(0))

    async with tab(browser, token=token) as page:
        await page.make(f"ws://127.0.0.1:{worker.port}/ws", "{ tokenFactory: token }")
        await page("client.connect()")
        await until(lambda: not lives)
        await asyncio.sleep(16)  # beyond the end of the first two
        assert isinstance(await page("client.ping()"), float | int)
        assert not [event for event in await page.told("state") if "expired" in event["reason"]]


async def test_a_page_reads_events_with_fetch_and_a_token(browser: Browser, start_for_pages: Start) -> None:
    """As docs/auth.md recommends. The page is of another origin, so the browser asks the worker first."""
    worker = await start_for_pages().ready()
    url = f"http://127.0.0.1:{worker.port}/events?room=lobby"
    async with tab(browser) as page:
        await page.run(
            f"""
                window.stream = async (token) => {{
                    const headers = {{ Authorization: `Bearer ${{token}}`, "Last-Event-ID": "1-0" }};
                    const answer = await fetch("{url}", {{ headers }});
                    const {{ value }} = await answer.body.getReader().read();
                    return [answer.status, new TextDecoder().decode(value)];
                }};
            """
        )
        status, text = await page(f"stream('{mint(SECRET, 'alice', 60)}')")
        assert status == 200
        assert "event: joined" in text
        assert await page("stream('no token')") == [401, "the token is not valid: it cannot be read\n"]


async def test_real_refusals_are_final_and_say_why(browser: Browser, start_for_pages: Start) -> None:
    worker = await start_for_pages().ready()
    url = f"ws://127.0.0.1:{worker.port}/ws"
    async with tab(browser) as page, tab(browser, "http://localhost:8001") as stranger:
        await page.make(url, f"{{ token: '{mint(SECRET, 'alice', -60)}' }}")
        assert "expired" in (await page("outcome(client.connect())"))["message"]
        await page.make(url, "{ ticketFactory: () => 'x' }")
        assert "ticket" in (await page("outcome(client.connect())"))["message"]
        await stranger.make(url, f"{{ token: '{mint(SECRET, 'alice', 60)}' }}")
        assert "origin" in (await stranger("outcome(client.connect())"))["message"]
        few = mint(SECRET, "alice", 600, join=("lobby",), publish=())
        await page.make(url, f"{{ token: '{few}' }}")
        await page("client.connect()")
        assert (await page("outcome(client.join('cellar'))"))["code"] == "forbidden"
        assert (await page("outcome(client.publish('lobby', 1))"))["code"] == "forbidden"
        assert (await page("outcome(client.presence('cellar'))"))["code"] == "forbidden"
        assert (await page("client.join('lobby').then(({ name }) => name)")) == "lobby"
        history = await page("client.history('lobby')")
        assert history == {"messages": [], "more": False}
