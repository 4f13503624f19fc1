# SPDX-License-Identifier: MIT
"""The JavaScript client in Chromium: against a server that says what the test wants, and against real workers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser
from support.browser import ORIGIN, Tab, tab
from support.conversation import Conversation
from support.proxy import proxy
from support.scripted import Peer, Scripted, scripted
from support.wait import until
from support.worker import SECRET, Worker

from wsserver.auth import mint

# A browser on a busy machine takes its time.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

Start = Callable[..., Worker]


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[Scripted]:
    async with scripted() as server:
        yield server


@asynccontextmanager
async def alice(
    browser: Browser, server: Scripted, options: str = "{ token: 'T' }", **functions: Any
) -> AsyncIterator[tuple[Tab, Peer]]:
    """A tab whose client is connected, and the other end of its connection."""
    async with tab(browser, **functions) as page:
        # Connections of a test are short, so that the waits between them would grow and grow.
        await page.run("Math.random = () => 0.02")
        await page.make(server.url, options)
        peer, _ = await asyncio.gather(server.welcomed(), page("client.connect()"))
        yield page, peer


async def in_room(page: Tab, peer: Peer, **joined: Any) -> None:
    """Afterwards the page has `room`."""
    joining = asyncio.ensure_future(page("client.join('r', { onMessage }).then((room) => { window.room = room; })"))
    await peer.receive("join")
    await peer.joined(**joined)
    await joining


async def begin(page: Tab, name: str, javascript: str) -> None:
    """Let a promise be under way, to ask for its outcome with `ended`."""
    await page.run(f"window.{name} = outcome({javascript})")


async def ended(page: Tab, name: str) -> Any:
    async with asyncio.timeout(30):
        return await page(name)


# One connection.


async def test_messages_come_out_as_they_were_published(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        assert (peer.path, peer.token) == ("/ws", "T")
        await page.run("window.messages = []; window.onMessage = (message) => messages.push(message)")
        await in_room(page, peer, seq=4)
        await peer.message(5, data={"text": "hello"})
        await page.until("messages.length")
        message = {"room": "r", "epoch": "7", "seq": 5, "user": "bob", "ts": 1, "data": {"text": "hello"}}
        assert await page("messages") == [message]
        assert await page("room.position") == {"epoch": "7", "seq": 5}
        await begin(page, "leaving", "client.leave(room)")
        await peer.receive("leave")
        await peer.message(6)
        await peer.send("left", room="r")
        assert await ended(page, "leaving") == {}
        assert await page("messages.length") == 1


async def test_an_application_that_fails_does_not_end_the_connection(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await page.run("window.onMessage = ({ seq }) => { seqs.push(seq); throw new Error('mine'); }")
        await in_room(page, peer)
        for seq in (1, 2):
            await peer.message(seq)
        await page.until("seqs.length === 2")
        assert await page("client.connects") == 1
        assert page.complaints == ["mine", "mine"]
        page.complaints.clear()


async def test_publishes_are_acknowledged_and_refused(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        for n in range(3):
            await begin(page, f"publish{n}", f"client.publish('r', {n}, {{ id: '{n}' }})")
        assert [await peer.receive("publish") for _ in range(3)] == [
            {"type": "publish", "room": "r", "data": n, "id": str(n)} for n in range(3)
        ]
        assert (await page("outcome(client.publish('r', 0, { id: '0' }))"))["name"] == "TypeError"
        assert (await page("outcome(client.publish('r', undefined))"))["name"] == "TypeError"
        await peer.send("ack", id="1", room="r", seq=11)
        await peer.send("ack", id="0", room="r", seq=10)
        await peer.send("error", code="forbidden", message="no", id="2")
        assert [await ended(page, f"publish{n}") for n in range(3)] == [
            {"value": 10},
            {"value": 11},
            {"name": "PublishError", "code": "forbidden", "message": "forbidden: no"},
        ]


async def test_a_refusal_that_passes_is_repeated_before_anything_newer(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await begin(page, "first", "client.publish('r', 1, { id: '1' })")
        await peer.receive("publish")
        told = time.monotonic()
        await peer.send("error", code="rate_limited", message="slower", id="1", retry_after_ms=500)
        await asyncio.sleep(0.1)
        await begin(page, "second", "client.publish('r', 2, { id: '2' })")
        assert [(await peer.receive("publish"))["id"] for _ in range(2)] == ["1", "2"]
        assert time.monotonic() - told >= 0.5
        await peer.send("error", code="outcome_unknown", message="?", id="1")
        assert (await peer.receive("publish"))["id"] == "1"
        for id, seq in (("1", 1), ("2", 2)):
            await peer.send("ack", id=id, room="r", seq=seq)
        assert [await ended(page, name) for name in ("first", "second")] == [{"value": 1}, {"value": 2}]


async def test_what_may_have_been_published_is_not_repeated_once_the_server_has_forgotten(
    browser: Browser, server: Scripted
) -> None:
    async with alice(browser, server) as (page, peer):
        for id in ("doubtful", "refused"):
            await begin(page, id, f"client.publish('r', '{id}', {{ id: '{id}' }})")
            await peer.receive("publish")
        await page.run("const later = Date.now() + 300_000; Date.now = () => later")
        # Of this one it is known that nothing was published, however long ago.
        await peer.send("error", code="unavailable", message="?", id="refused")
        await peer.send("error", code="outcome_unknown", message="?", id="doubtful")
        assert (await peer.receive("publish"))["id"] == "refused"
        await peer.send("ack", id="refused", room="r", seq=1)
        assert await ended(page, "refused") == {"value": 1}
        outcome = await ended(page, "doubtful")
        assert (outcome["name"], outcome["code"]) == ("PublishError", "outcome_unknown")


async def test_a_message_that_the_server_would_close_for_is_not_sent(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        outcome = await page("outcome(client.publish('r', 'ü'.repeat(32768)))")
        assert (outcome["name"], outcome["code"]) == ("PublishError", "too_big")
        await peer.nothing(0.2)


async def test_no_more_than_a_window_is_unacknowledged(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server, "{ token: 'T', maxUnacknowledged: 2 }") as (page, peer):
        for n in range(3):
            await begin(page, f"publish{n}", f"client.publish('r', {n}, {{ id: '{n}' }})")
        for _ in range(2):
            await peer.receive("publish")
        await peer.nothing(0.2)
        await peer.send("ack", id="0", room="r", seq=1)
        assert (await peer.receive("publish"))["id"] == "2"
        for id in ("1", "2"):
            await peer.send("ack", id=id, room="r", seq=int(id) + 1)
        assert [await ended(page, f"publish{n}") for n in range(3)] == [{"value": n} for n in (1, 2, 3)]


async def test_questions_get_their_own_answers(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await begin(page, "past", "client.history('r', { before: { epoch: '7', seq: 9 }, limit: 2 })")
        await begin(page, "present", "client.presence('r', { after: 'a' })")
        await begin(page, "refused", "client.presence('r')")
        assert (await peer.receive("history"))["before"] == {"epoch": "7", "seq": 9}
        assert (await peer.receive("presence"))["after"] == "a"
        await peer.receive("presence")
        entry = {"epoch": "7", "seq": 8, "from": "bob", "ts": 1.5, "data": [1]}
        members = [{"user": "bob", "connections": 2}]
        await peer.send("history", room="r", messages=[entry], more=True)
        await peer.send("presence", room="r", members=members, count=1, more=False)
        await peer.send("error", code="forbidden", message="no", room="r")
        message = {"room": "r", "epoch": "7", "seq": 8, "user": "bob", "ts": 1.5, "data": [1]}
        assert await ended(page, "past") == {"value": {"messages": [message], "more": True}}
        assert await ended(page, "present") == {"value": {"members": members, "count": 1, "more": False}}
        assert await ended(page, "refused") == {"name": "ServerError", "code": "forbidden", "message": "forbidden: no"}
        await begin(page, "measured", "client.ping()")
        ping = await peer.receive("ping")
        await asyncio.sleep(0.1)
        await peer.send("pong", t=ping["t"])
        assert (await ended(page, "measured"))["value"] >= 100


async def test_a_room_that_one_may_not_join(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await begin(page, "joining", "client.join('r')")
        await peer.receive("join")
        await peer.send("error", code="unavailable", message="later", room="r")
        await peer.receive("join")
        await peer.send("error", code="forbidden", message="no", room="r")
        assert await ended(page, "joining") == {"name": "JoinError", "code": "forbidden", "message": "forbidden: no"}
        await in_room(page, peer)
        assert "already" in (await page("outcome(client.join('r'))"))["message"]
        await peer.send("error", code="forbidden", message="the new token is for fewer rooms", room="r")
        await page.until("events.filter(({ type }) => type === 'removed').length === 2")
        assert await page("client.rooms.size") == 0


async def test_members_errors_and_what_is_unknown(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await begin(page, "joining", "client.join('r', { members: true })")
        assert (await peer.receive("join"))["members"] is True
        await peer.joined()
        await peer.send("of a later version", room=5)
        await peer.send("member", room="r", user="bob", event="join", later="too")
        await peer.send("error", code="rate_limited", message="wait")
        await page.until("events.some(({ type }) => type === 'error')")
        assert await page.told("member", "error") == [
            {"type": "member", "room": "r", "user": "bob", "event": "join"},
            {"type": "error", "code": "rate_limited", "message": "wait"},
        ]
        assert await page("client.connects") == 1


# From one connection to the next.


async def test_after_a_break_it_resumes_and_repeats_in_order_before_what_is_new(
    browser: Browser, server: Scripted
) -> None:
    async with alice(browser, server) as (page, peer):
        await in_room(page, peer, seq=3)
        await peer.message(4)
        for n in range(3):
            await begin(page, f"publish{n}", f"client.publish('r', {n}, {{ id: '{n}' }})")
            await peer.receive("publish")
        await peer.send("ack", id="1", room="r", seq=9)
        assert await ended(page, "publish1") == {"value": 9}
        peer.connection.transport.abort()
        await page.until("client.state === 'reconnecting'")
        await begin(page, "publish3", "client.publish('r', 3, { id: '3' })")
        await begin(page, "asking", "client.presence('r')")
        peer = await server.welcomed()
        assert (await peer.receive("join"))["since"] == {"epoch": "7", "seq": 4}
        await peer.receive("presence")
        assert [(await peer.receive("publish"))["id"] for _ in range(3)] == ["0", "2", "3"]
        await peer.joined(seq=4, recovered=True)
        await peer.send("presence", room="r", members=[], count=0, more=False)
        await ended(page, "asking")
        await peer.message(5)
        for id in ("0", "2", "3"):
            await peer.send("ack", id=id, room="r", seq=10)
            assert await ended(page, f"publish{id}") == {"value": 10}
        assert await page("seqs") == [4, 5]
        assert await page("room.recovered")
        await page("client.close()")
        assert await page.states() == ["connected", "reconnecting", "connected", "closed"]
        assert await page.told("gap", "reset") == []


async def test_what_comes_twice_is_dropped_and_counted(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await in_room(page, peer)
        for seq in (1, 2, 2, 1, 3):
            await peer.message(seq)
        await page.until("seqs.length === 3")
        assert await page("[seqs, client.duplicates, client.holes, client.connects]") == [[1, 2, 3], 2, 0, 1]


async def test_a_hole_is_mended_by_resuming(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await in_room(page, peer)
        await peer.message(1)
        await peer.message(3)
        again = await server.welcomed()
        assert (await again.receive("join"))["since"] == {"epoch": "7", "seq": 1}
        await peer.closed()
        await again.joined(seq=1, recovered=True)
        for seq in (2, 3):
            await again.message(seq)
        await page.until("seqs.length === 3")
        assert await page("[seqs, client.holes]") == [[1, 2, 3], 1]
        assert await page.told("gap", "reset") == []


async def test_a_hole_that_resuming_does_not_mend_is_told(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await in_room(page, peer)
        await peer.message(2)
        peer = await server.welcomed()
        await peer.receive("join")
        await peer.joined(recovered=True)
        await peer.message(2)
        await peer.send("gap", room="r", **{"from": 3, "to": 5})
        await peer.message(6)
        await page.until("seqs.length === 2")
        assert await page("[seqs, client.holes, client.connects]") == [[2, 6], 2, 2]
        assert await page.told("gap", "reset") == [
            {"type": "gap", "room": "r", "from": 1, "to": 1},
            {"type": "gap", "room": "r", "from": 3, "to": 5},
        ]


@pytest.mark.parametrize(
    ("joined", "told"),
    [
        ({"seq": 9}, [{"type": "gap", "room": "r", "from": 6, "to": 9}]),
        ({"seq": 5}, []),
        ({"seq": 2}, [{"type": "reset", "room": "r", "epoch": "7", "seq": 2}]),
        ({"epoch": "8", "seq": 2}, [{"type": "reset", "room": "r", "epoch": "8", "seq": 2}]),
        ({"seq": 9, "recovered": True}, []),  # the hole shows with the first message
    ],
)
async def test_what_could_not_be_recovered_is_told(
    browser: Browser, server: Scripted, joined: dict[str, Any], told: list[Any]
) -> None:
    async with alice(browser, server) as (page, peer):
        await in_room(page, peer, seq=5)
        peer.connection.transport.abort()
        peer = await server.welcomed()
        await peer.receive("join")
        await peer.joined(**joined)
        await peer.message(min(joined["seq"], 5))  # a repeat, behind the answer
        await page.until("client.duplicates")
        assert await page.told("gap", "reset") == told


@pytest.mark.parametrize("answer", ["joined", "unavailable", "forbidden"])
async def test_a_room_left_while_it_is_joined_again_leaves_its_answer_behind(
    browser: Browser, server: Scripted, answer: str
) -> None:
    async with alice(browser, server) as (page, peer):
        await in_room(page, peer)
        server.cut_all()
        peer = await server.welcomed()
        await peer.receive("join")
        await begin(page, "leaving", "client.leave(room)")
        await peer.receive("leave")
        await begin(page, "joining", "client.join('r', { onMessage, since: { epoch: '7', seq: 5 } })")
        await peer.receive("join")
        if answer == "joined":
            await peer.joined(seq=8)
        else:
            await peer.send("error", code=answer, message="no", room="r")
        await peer.send("left", room="r")
        await peer.joined(seq=5, recovered=True)
        assert await ended(page, "leaving") == {}
        await peer.message(6)
        await page.until("heard.length")
        await peer.nothing(within_s=0.6)
        assert await page("heard") == [6]
        assert await page.told("gap", "reset", "removed") == []


async def test_a_reset_begins_the_count_anew(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await in_room(page, peer, seq=5)
        await peer.send("reset", room="r", epoch="8", seq=0)
        await peer.message(1)
        await page.until("seqs.length")
        assert await page("room.position") == {"epoch": "8", "seq": 1}
        assert await page.told("gap", "reset") == [{"type": "reset", "room": "r", "epoch": "8", "seq": 0}]


async def test_the_hint_to_reconnect_is_obeyed_and_the_old_connection_serves_until_then(
    browser: Browser, server: Scripted
) -> None:
    async with alice(browser, server) as (page, peer):
        await in_room(page, peer)
        hinted = time.monotonic()
        await peer.send("reconnect", after_ms=1000, reason="going away")
        await peer.message(1)
        await page.until("seqs.length")
        closing = asyncio.ensure_future(peer.closed())
        again = await server.welcomed()
        assert time.monotonic() - hinted >= 1
        await closing
        assert (await again.receive("join"))["since"]["seq"] == 1
        await again.send("reconnect", after_ms=1000, reason="going away")
        hinted = time.monotonic()
        await again.connection.close(1001)
        await server.welcomed()
        assert time.monotonic() - hinted >= 1


async def test_it_comes_back_after_other_close_codes(browser: Browser, server: Scripted) -> None:
    codes = [1000, 1001, 1002, 1003, 1007, 1009, 1011, 1012, 1013, 4000]
    async with alice(browser, server) as (page, peer):
        for code in codes:
            await peer.connection.close(code, "because")
            peer = await server.welcomed()
        await page.until(f"client.connects === {len(codes) + 1}")
        reasons = [event["reason"] for event in await page.told("state") if event["state"] == "reconnecting"]
        assert reasons == [f"closed with {code}: because" for code in codes]


async def test_a_server_that_falls_silent_is_left(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        peer.connection.transport.abort()
        peer = await server.welcomed(heartbeat_s=1)
        ping = await peer.receive("ping")
        await peer.send("pong", t=ping["t"])
        await peer.receive("ping")
        await server.welcomed()
        await page.until("client.connects === 3")
        assert "the server does not answer" in [event["reason"] for event in await page.told("state")]


async def test_a_server_that_owes_an_answer_is_asked_sooner(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        await begin(page, "publishing", "client.publish('r', 1, { id: '1' })")
        await peer.receive("publish")
        asked = time.monotonic()
        await peer.receive("ping")
        assert time.monotonic() - asked < 20  # of a heartbeat of 25 s
        await peer.send("ack", id="1", room="r", seq=1)
        assert await ended(page, "publishing") == {"value": 1}


async def test_a_server_that_does_not_greet_is_left(browser: Browser, server: Scripted) -> None:
    async with tab(browser) as page:
        await page.make(server.url)
        await page.run("client.connect()")
        await server.peer()
        await server.welcomed()
        await page.until("client.state === 'connected'")


async def test_waits_grow_and_are_spread(browser: Browser) -> None:
    """With a clock of its own: each wait is told, and over at once."""
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
                        if (ms !== 10000) waits.push(ms);  // but for the deadline of a handshake
                        return realTimeout(work, ms === 10000 ? ms : 0);
                    }};
                """
            )
            await page.make(nowhere.url)
            await page.run("client.connect().catch(() => {})")
            await page.until("waits.length >= 7")
            await page.run("client.close()")
            assert (await page("waits"))[:7] == waits


# Who may.


@pytest.mark.parametrize("options", ["{}", "undefined", "{ token: 'T', tokenFactory() {} }"])
async def test_one_way_to_show_who_one_is(browser: Browser, options: str) -> None:
    async with tab(browser) as page:
        outcome = await page(f"outcome((async () => make('ws://localhost:1', {options}))())")
        assert "one of" in outcome["message"]


async def test_what_the_browser_does_not_dial_is_final(browser: Browser) -> None:
    async with tab(browser) as page:
        for url, token in (("nonsense://x", "T"), ("ws://localhost:1/ws", "no token")):
            await page.make(url, f"{{ token: '{token}' }}")
            assert (await page("outcome(client.connect())"))["name"] == "Closed"


async def test_a_token_that_is_refused_is_final_and_nothing_else_is(browser: Browser, server: Scripted) -> None:
    server.refusals = [503, 429]
    async with tab(browser) as page:
        await page.make(server.url)
        await begin(page, "connecting", "client.connect()")
        await (await server.peer()).connection.close(1008, "the token has expired")
        outcome = {"name": "Closed", "message": "closed with 1008: the token has expired"}
        assert await ended(page, "connecting") == outcome
        for call in ("connect()", "publish('r', 1)", "join('r')", "ping()"):
            assert await page(f"outcome(client.{call})") == outcome
        assert await page.states() == ["connecting", "connecting", "closed"]


async def test_a_fresh_token_is_asked_for_when_one_was_refused(browser: Browser, server: Scripted) -> None:
    given: list[str] = []

    async def token() -> str:
        given.append(f"T{len(given)}")
        return given[-1]

    async with alice(browser, server, "{ tokenFactory: token }", token=token) as (page, peer):
        await in_room(page, peer)
        await peer.send("expiring", expires=1.0)
        assert (await peer.receive("auth"))["token"] == "T1"
        await peer.connection.close(1008, "token expired")
        peer = await server.welcomed()
        assert peer.token == "T2"
        peer.connection.transport.abort()
        peer = await server.peer()
        assert peer.token == "T2"
        await peer.connection.close(1008, "the token has expired")
        peer = await server.welcomed()
        assert peer.token == "T3"
        await begin(page, "publishing", "client.publish('r', 1)")
        await peer.receive("join")
        await peer.receive("publish")
        await peer.connection.close(1008, "you are not wanted")
        peer = await server.peer()
        assert peer.token == "T4"
        await peer.connection.close(1008, "you are not wanted")
        assert (await ended(page, "publishing"))["name"] == "Closed"
        assert await page("client.state") == "closed"
    assert given == ["T0", "T1", "T2", "T3", "T4"]


async def test_a_source_of_tokens_that_fails_is_asked_again(browser: Browser, server: Scripted) -> None:
    answers = ["", "", "T"]

    async def token() -> str:
        if not (answer := answers.pop(0)):
            raise OSError("no route")
        return answer

    async with alice(browser, server, "{ tokenFactory: token }", token=token) as (_page, peer):
        assert peer.token == "T"


async def test_a_ticket_is_for_one_handshake(browser: Browser, server: Scripted) -> None:
    tickets = iter(["a/b", "c"])

    async def ticket() -> str:
        return next(tickets)

    async with alice(browser, server, "{ ticketFactory: ticket }", ticket=ticket) as (_page, peer):
        assert (peer.path, peer.token) == ("/ws?ticket=a%2Fb", "")
        await peer.connection.close(1008, "expired")
        assert (await server.welcomed()).path == "/ws?ticket=c"


async def test_close_tells_whoever_waits(browser: Browser, server: Scripted) -> None:
    async with alice(browser, server) as (page, peer):
        for name, call in (
            ("publishing", "publish('r', 1)"),
            ("asking", "presence('r')"),
            ("measuring", "ping()"),
            ("joining", "join('s')"),
        ):
            await begin(page, name, f"client.{call}")
        await peer.receive("publish")
        await page.run("client.close()")
        for name in ("publishing", "asking", "joining"):
            assert await ended(page, name) == {"name": "Closed", "message": "closed by the application"}
        assert (await ended(page, "measuring"))["name"] == "Error"
        await asyncio.wait_for(peer.connection.wait_closed(), 20)


# Real workers.


def conversation(browser: Browser, url: str) -> Conversation:
    return Conversation(browser, url, [mint(SECRET, name, 600) for name in ("alice", "bob", "carol")])


@pytest.fixture
def start_for_pages(start: Start) -> Start:
    def start_worker(**settings: str) -> Worker:
        return start(**{"WS_ALLOWED_ORIGINS": ORIGIN, **settings})

    return start_worker


async def test_kill_9_of_a_worker_loses_and_doubles_nothing(browser: Browser, start_for_pages: Start) -> None:
    workers = [await start_for_pages().ready(), await start_for_pages().ready()]
    async with proxy(*(worker.port for worker in workers)) as balancer:

        async def kill_one_after_the_other() -> None:
            for worker in workers:
                worker.signal(signal.SIGKILL)
                await asyncio.sleep(0.5)
                worker.start_again()
                await worker.ready()

        await conversation(browser, balancer.url).over(kill_one_after_the_other)


async def test_a_drained_worker_loses_and_doubles_nothing(browser: Browser, start_for_pages: Start) -> None:
    workers = [await start_for_pages().ready(), await start_for_pages().ready()]
    async with proxy(*(worker.port for worker in workers)) as balancer:

        async def drain_one() -> None:
            workers[0].signal(signal.SIGTERM)
            await until(lambda: workers[0].process.poll() == 0)

        await conversation(browser, balancer.url).over(drain_one)


async def test_a_connection_that_is_dead_without_a_word_is_noticed(browser: Browser, start_for_pages: Start) -> None:
    worker = await start_for_pages(WS_HEARTBEAT_S="1").ready()
    async with proxy(worker.port) as balancer:
        talk = conversation(browser, balancer.url)

        async def freeze() -> None:
            balancer.frozen = True
            for page in talk.tabs:
                await page.until("client.state === 'reconnecting'")
            balancer.frozen = False
            for page in talk.tabs:
                await page.until("client.state === 'connected'")
                assert await page("client.connects") >= 2

        await talk.over(freeze)


async def test_a_publish_whose_ack_was_lost_is_published_once(browser: Browser, start_for_pages: Start) -> None:
    worker = await start_for_pages().ready()
    async with proxy(worker.port) as balancer, tab(browser) as alice, tab(browser) as bob:
        await alice.make(balancer.url, f"{{ token: '{mint(SECRET, 'alice', 600)}' }}")
        await bob.make(f"ws://127.0.0.1:{worker.port}/ws", f"{{ token: '{mint(SECRET, 'bob', 600)}' }}")
        for page in (alice, bob):
            await page("client.connect()")
        await bob("client.join('r', { onMessage }).then(() => {})")
        balancer.mute = True
        await begin(alice, "publishing", "client.publish('r', 'once')")
        await bob.until("heard.length")
        balancer.cut()
        balancer.mute = False
        assert await ended(alice, "publishing") == {"value": 1}
        assert await alice("client.connects") == 2
        assert await bob("client.publish('r', 'next')") == 2
        await bob.until("heard.length === 2")
        assert await bob("heard") == ["once", "next"]


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
