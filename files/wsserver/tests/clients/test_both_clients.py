# SPDX-License-Identifier: MIT
"""One list of scenarios for both clients, against a server that the test scripts, and against real
workers.

Each scenario runs with the Python client, and with the JavaScript client in Chromium.
test_client.py and test_wsclient.py test the features that only one client has.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.browser import ORIGIN
from support.browser_driver import browser_driver, browser_talk
from support.driver import Call, Driver, MakeDriver, MakeTalk
from support.previous import PreviousWorker, previous_release
from support.proxy import proxy
from support.python_driver import impatient, python_driver, python_talk
from support.redis_server import RedisServer
from support.scripted import Peer, Scripted, scripted
from support.wait import until
from support.worker import SECRET, Worker

from wsserver.auth import mint

# A browser on a busy machine is slow.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

Start = Callable[..., Worker]


@pytest.fixture(scope="module", params=["python", "javascript"])
def language(request: pytest.FixtureRequest) -> str:
    """The client's language. Scenarios are sorted by it, so that a process with only Python
    scenarios starts no browser."""
    return str(request.param)


@pytest.fixture
def make(language: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MakeDriver:
    """Makes a client from a URL and options."""
    if language == "javascript":
        return partial(browser_driver, request.getfixturevalue("browser"))
    impatient(monkeypatch)
    return partial(python_driver, monkeypatch)


@pytest.fixture
def talk(language: str, request: pytest.FixtureRequest) -> MakeTalk:
    if language == "javascript":
        return partial(browser_talk, request.getfixturevalue("browser"))
    return python_talk


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[Scripted]:
    async with scripted() as server:
        yield server


@asynccontextmanager
async def alice(make: MakeDriver, server: Scripted, **options: Any) -> AsyncIterator[tuple[Driver, Peer]]:
    """A client that is connected, and the other end of its connection."""
    credentials = {} if {"token_factory", "ticket_factory"} & options.keys() else {"token": "T"}
    async with make(server.url, **credentials, **options) as client:
        peer, _ = await asyncio.gather(server.welcomed(), client.connect())
        yield client, peer


async def value(call: Call) -> Any:
    """The value that a call returned. The call must not fail."""
    outcome = await call.outcome()
    assert set(outcome) == {"value"}, outcome
    return outcome["value"]


async def failure(call: Call) -> tuple[str, str | None]:
    """The name and the code of the error that a call must end with."""
    outcome = await call.outcome()
    return outcome["name"], outcome.get("code")


async def join(client: Driver, peer: Peer, **joined: Any) -> None:
    """Let the client join the room "r"."""
    joining = await client.begin("join", "r")
    await peer.receive("join")
    await peer.joined(**joined)
    await value(joining)


async def publish(client: Driver, peer: Peer, ids: Iterable[int]) -> dict[int, Call]:
    """Publish each number with itself as the id, and see it arrive."""
    calls = {}
    for n in ids:
        calls[n] = await client.begin("publish", "r", n, id=str(n))
        assert await peer.receive("publish") == {"type": "publish", "room": "r", "data": n, "id": str(n)}
    return calls


async def acknowledge(peer: Peer, seqs: dict[int, int]) -> None:
    """Acknowledge each publish with its `seq`."""
    for n, seq in seqs.items():
        await peer.send("ack", id=str(n), room="r", seq=seq)


async def has_read_all(client: Driver, peer: Peer) -> None:
    """Wait for the answer to a ping, which follows everything that the peer has sent before."""
    measuring = await client.begin("ping")
    ping = await peer.receive("ping")
    await peer.send("pong", t=ping["t"])
    await value(measuring)


async def seqs(client: Driver, count: int) -> list[int]:
    return [message["seq"] for message in await client.messages(count)]


# One connection.


async def test_messages_arrive_as_they_were_published(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        assert (peer.path, peer.token) == ("/ws", "T")
        await join(client, peer, seq=4)
        await peer.message(5, data={"text": "hello"})
        message = {"room": "r", "epoch": "7", "seq": 5, "user": "bob", "ts": 1, "data": {"text": "hello"}}
        assert await client.messages(1) == [message]
        assert (await client.room("r"))["position"] == {"epoch": "7", "seq": 5}
        leaving = await client.begin("leave", "r")
        await peer.receive("leave")
        await peer.message(6)
        await peer.send("left", room="r")
        await value(leaving)
        assert await client.messages(1) == [message]


async def test_publishes_are_acknowledged_and_refused(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        publishing = await publish(client, peer, range(3))
        await acknowledge(peer, {1: 11, 0: 10})
        await peer.send("error", code="forbidden", message="no", id="2")
        assert [await value(publishing[n]) for n in range(2)] == [10, 11]
        refused = {"name": "PublishError", "code": "forbidden", "message": "forbidden: no"}
        assert await publishing[2].outcome() == refused


async def test_a_refusal_that_passes_is_repeated_before_anything_newer(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        publishing = await publish(client, peer, [1])
        told = time.monotonic()
        await peer.send("error", code="rate_limited", message="slower", id="1", retry_after_ms=500)
        await asyncio.sleep(0.1)
        publishing[2] = await client.begin("publish", "r", 2, id="2")
        assert [(await peer.receive("publish"))["id"] for _ in range(2)] == ["1", "2"]
        assert time.monotonic() - told >= 0.5
        await peer.send("error", code="outcome_unknown", message="?", id="1")
        assert (await peer.receive("publish"))["id"] == "1"
        await acknowledge(peer, {1: 1, 2: 2})
        assert [await value(publishing[n]) for n in (1, 2)] == [1, 2]


async def test_a_publish_in_doubt_is_not_repeated_once_the_server_no_longer_knows_it(
    make: MakeDriver, server: Scripted
) -> None:
    """Minutes pass on the server's clock while the computer sleeps."""
    async with alice(make, server) as (client, peer):
        doubtful, refused = (await publish(client, peer, [1, 2])).values()
        await client.sleep(300)
        # The client knows that the second message was not published, however long ago.
        await peer.send("error", code="unavailable", message="?", id="2")
        await peer.send("error", code="outcome_unknown", message="?", id="1")
        assert (await peer.receive("publish"))["id"] == "2"
        await acknowledge(peer, {2: 1})
        assert await value(refused) == 1
        outcome = await doubtful.outcome()
        assert (outcome["name"], outcome["code"]) == ("PublishError", "outcome_unknown")
        assert "may be published" in outcome["message"]


async def test_a_message_that_the_server_would_close_for_is_not_sent(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        outcome = await (await client.begin("publish", "r", "ü" * 32768)).outcome()
        assert (outcome["name"], outcome["code"]) == ("PublishError", "too_big")
        assert "65536" in outcome["message"]
        await peer.nothing(0.2)


async def test_no_more_than_a_window_is_unacknowledged(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server, max_unacknowledged=2) as (client, peer):
        publishing = await publish(client, peer, range(2))
        publishing[2] = await client.begin("publish", "r", 2, id="2")
        await peer.nothing(0.2)
        await acknowledge(peer, {0: 1})
        assert (await peer.receive("publish"))["id"] == "2"
        await acknowledge(peer, {1: 2, 2: 3})
        assert [await value(publishing[n]) for n in range(3)] == [1, 2, 3]


async def test_requests_get_their_own_answers(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        past = await client.begin("history", "r", before={"epoch": "7", "seq": 9}, limit=2)
        present = await client.begin("presence", "r", after="a")
        refused = await client.begin("presence", "r")
        assert (await peer.receive("history"))["before"] == {"epoch": "7", "seq": 9}
        assert (await peer.receive("presence"))["after"] == "a"
        await peer.receive("presence")
        entry = {"epoch": "7", "seq": 8, "from": "bob", "ts": 1.5, "data": [1]}
        members = [{"user": "bob", "connections": 2}]
        await peer.send("history", room="r", messages=[entry], more=True)
        await peer.send("presence", room="r", members=members, count=1, more=False)
        await peer.send("error", code="forbidden", message="no", room="r")
        message = {"room": "r", "epoch": "7", "seq": 8, "user": "bob", "ts": 1.5, "data": [1]}
        assert await value(past) == {"messages": [message], "more": True}
        assert await value(present) == {"members": members, "count": 1, "more": False}
        assert await refused.outcome() == {"name": "ServerError", "code": "forbidden", "message": "forbidden: no"}
        measuring = await client.begin("ping")
        ping = await peer.receive("ping")
        await asyncio.sleep(0.1)
        await peer.send("pong", t=ping["t"])
        assert await value(measuring) >= 100


async def test_answers_belong_to_the_question_whose_id_they_repeat(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        asked = [await client.begin("history", "r", limit=limit) for limit in (1, 2, 3)]
        asked.append(await client.begin("presence", "r"))
        ids = [(await peer.receive(kind))["id"] for kind in ("history", "history", "history", "presence")]
        assert len(set(ids)) == 4
        await peer.send("presence", room="r", members=[], count=7, more=False, id=ids[3])
        await peer.send("history", room="r", messages=[], more=True, id=ids[2])
        await peer.send("error", code="bad_message", message="limit", id=ids[0])
        await peer.send("history", room="r", messages=[], more=False, id="of another call")
        await peer.send("error", code="bad_message", message="?", room="r", id="of another call")
        await peer.send("history", room="r", messages=[], more=False, id=ids[1])
        assert await failure(asked[0]) == ("ServerError", "bad_message")
        assert [(await value(asked[n]))["more"] for n in (1, 2)] == [False, True]
        assert (await value(asked[3]))["count"] == 7


async def test_an_error_without_an_id_is_about_the_room_if_the_server_repeats_ids(
    make: MakeDriver, server: Scripted
) -> None:
    async with alice(make, server) as (client, peer):
        joining = await client.begin("join", "r")
        await peer.joined(id=(await peer.receive("join"))["id"])
        await value(joining)
        asking = await client.begin("history", "r")
        id = (await peer.receive("history"))["id"]
        await peer.send("error", code="forbidden", message="the new token is for fewer rooms", room="r")
        await client.expelled("r")
        await peer.send("history", room="r", messages=[], more=False, id=id)
        assert await value(asking) == {"messages": [], "more": False}


async def test_a_join_that_is_refused_for_now_is_repeated_under_its_id(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        joining = await client.begin("join", "r")
        id = (await peer.receive("join"))["id"]
        await peer.send("error", code="unavailable", message="later", room="r", id=id)
        assert (await peer.receive("join"))["id"] == id
        await peer.joined(id=id)
        await value(joining)


@pytest.mark.parametrize(
    ("method", "arguments", "options"),
    [
        ("join", ["a b"], {}),
        ("join", [""], {}),
        ("join", ["\U0001f600" * 129], {}),
        ("join", ["\ud83d"], {}),
        ("join", ["r"], {"since": {"epoch": "x", "seq": 1}}),
        ("history", ["r"], {"limit": 101}),
        ("history", ["r"], {"limit": 0}),
        ("history", ["r"], {"before": {"epoch": "7", "seq": -1}}),
        ("history", ["r\n"], {}),
        ("presence", ["r"], {"limit": 1.5}),
        ("presence", ["r"], {"after": "\ude00"}),
        ("publish", ["a b", 1], {}),
        ("publish", ["r", 1], {"id": ""}),
        ("publish", ["r", 1], {"id": "x" * 129}),
        ("publish", ["r", "great \ud83d"], {}),
        ("publish", ["r", {"\ude00": [1]}], {}),
    ],
)
async def test_what_every_server_refuses_is_not_sent(
    make: MakeDriver, server: Scripted, method: str, arguments: list[Any], options: dict[str, Any]
) -> None:
    async with alice(make, server) as (client, peer):
        assert await failure(await client.begin(method, *arguments, **options)) == (client.invalid, None)
        await has_read_all(client, peer)  # the next command is the ping
        assert await client.rooms() == []


async def test_what_servers_accept_is_sent(make: MakeDriver, server: Scripted) -> None:
    data = {"😀": ["\\ud83d", "\\\\", "great 😀", "\0\u2028", None, 1.5]}
    async with alice(make, server) as (client, peer):
        for room, id in (("😀" * 128, "😀" * 128), ("ü:1", "a b"), ("r", "1")):
            publishing = await client.begin("publish", room, data, id=id)
            assert await peer.receive("publish") == {"type": "publish", "room": room, "data": data, "id": id}
            await peer.send("ack", id=id, room=room, seq=1)
            await value(publishing)


async def test_calls_without_an_answer_end(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server, hurried=True) as (client, peer):
        await join(client, peer)
        asked = {kind: await client.begin(kind, "s") for kind in ("history", "presence", "join")}
        outcomes = {kind: await failure(call) for kind, call in asked.items()}
        assert outcomes == {
            "history": ("ServerError", "timeout"),
            "presence": ("ServerError", "timeout"),
            "join": ("JoinError", "timeout"),
        }
        for kind in asked:
            await peer.receive(kind)
        assert (await peer.receive("leave"))["room"] == "s"
        assert await client.rooms() == ["r"]
        assert (await client.counts())["connects"] == 1


async def test_a_join_without_an_answer_does_not_end_a_later_one(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server, hurried=True) as (client, peer):
        first = await client.begin("join", "s")
        await peer.receive("join")
        await client.begin("leave", "s")
        await peer.receive("leave")
        await asyncio.sleep(0.9)  # the later join has a later deadline
        later = await client.begin("join", "s")
        id = (await peer.receive("join"))["id"]
        assert await failure(first) == ("JoinError", "timeout")
        await peer.send("joined", room="s", epoch="7", seq=0, recovered=False, id=id)
        await value(later)
        await has_read_all(client, peer)  # the next command is the ping: no leave


async def test_a_join_again_without_an_answer_ends_the_connection(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server, hurried=True) as (client, peer):
        await join(client, peer, seq=5)
        peer.connection.transport.abort()
        peer = await server.welcomed()
        await peer.receive("join")
        peer = await server.welcomed()
        assert (await peer.receive("join"))["since"] == {"epoch": "7", "seq": 5}
        assert ("reconnecting", "no answer to a join") in await client.states()


async def test_a_publish_in_doubt_ends_on_the_same_connection(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server, hurried=True) as (client, peer):
        [publishing] = (await publish(client, peer, [1])).values()
        await client.sleep(300)
        assert await failure(publishing) == ("PublishError", "outcome_unknown")


async def test_a_ping_ends_with_its_connection(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        measuring = await client.begin("ping")
        await peer.receive("ping")
        peer.connection.transport.abort()
        assert (await failure(measuring))[0] in ("ConnectionError", "Error")
        await server.welcomed()


async def test_a_fresh_token_that_cannot_be_checked_is_sent_again(make: MakeDriver, server: Scripted) -> None:
    given: list[str] = []

    async def token() -> str:
        given.append(f"T{len(given)}")
        return given[-1]

    async with alice(make, server, token_factory=token) as (client, peer):
        await peer.send("expiring", expires=1.0)
        renewal = await peer.receive("auth")
        await peer.send("error", code="unavailable", message="the keys are not available", id=renewal["id"])
        assert await peer.receive("auth") == renewal
        await peer.send("auth", expires=2e9, id=renewal["id"])
        await has_read_all(client, peer)
        assert given == ["T0", "T1"]


async def test_a_room_without_permission(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        joining = await client.begin("join", "r")
        await peer.receive("join")
        await peer.send("error", code="unavailable", message="later", room="r")
        await peer.receive("join")
        await peer.send("error", code="forbidden", message="no", room="r")
        assert await joining.outcome() == {"name": "JoinError", "code": "forbidden", "message": "forbidden: no"}
        await join(client, peer)
        assert "already" in (await (await client.begin("join", "r")).outcome())["message"]
        await peer.send("error", code="forbidden", message="the new token is for fewer rooms", room="r")
        message = "forbidden: the new token is for fewer rooms"
        assert await client.expelled("r") == {"name": "JoinError", "code": "forbidden", "message": message}
        assert await client.rooms() == []


async def test_member_events_errors_and_unknown_events(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        joining = await client.begin("join", "r", members=True)
        assert (await peer.receive("join"))["members"] is True
        await peer.joined()
        await value(joining)
        await peer.send("of a later version", room=5)
        await peer.send("member", room="r", user="bob", event="join", later="too")
        await peer.send("error", code="rate_limited", message="wait")
        await has_read_all(client, peer)
        assert await client.events("member", "error") == [
            {"type": "member", "room": "r", "user": "bob", "event": "join"},
            {"type": "error", "code": "rate_limited", "message": "wait"},
        ]
        assert (await client.counts())["connects"] == 1


# From one connection to the next.


async def test_after_a_break_it_resumes_and_repeats_in_order_before_new_publishes(
    make: MakeDriver, server: Scripted
) -> None:
    async with alice(make, server) as (client, peer):
        await join(client, peer, seq=3)
        await peer.message(4)
        publishing = await publish(client, peer, range(3))
        await acknowledge(peer, {1: 9})
        assert await value(publishing[1]) == 9
        peer.connection.transport.abort()
        await client.until(state="reconnecting")
        publishing[3] = await client.begin("publish", "r", 3, id="3")
        asking = await client.begin("presence", "r")
        peer = await server.welcomed()
        assert (await peer.receive("join"))["since"] == {"epoch": "7", "seq": 4}
        await peer.receive("presence")
        assert [(await peer.receive("publish"))["id"] for _ in range(3)] == ["0", "2", "3"]
        await peer.joined(seq=4, recovered=True)
        await peer.send("presence", room="r", members=[], count=0, more=False)
        await value(asking)
        await peer.message(5)
        await acknowledge(peer, {0: 10, 2: 11, 3: 12})
        assert [await value(publishing[n]) for n in (0, 2, 3)] == [10, 11, 12]
        assert await seqs(client, 2) == [4, 5]
        assert (await client.room("r"))["recovered"]
        await client.close()
        states = [state for state, _reason in await client.states()]
        assert states == ["connected", "reconnecting", "connected", "closed"]
        assert await client.events("gap", "reset") == []


async def test_repeated_messages_are_dropped_and_counted(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        await join(client, peer)
        for seq in (1, 2, 2, 1, 3):
            await peer.message(seq)
        assert await seqs(client, 3) == [1, 2, 3]
        assert await client.counts() == {"duplicates": 2, "holes": 0, "connects": 1}


async def test_a_hole_is_closed_by_resuming(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        await join(client, peer)
        await peer.message(1)
        await peer.message(3)
        assert await peer.closed() == client.abort_code
        peer = await server.welcomed()
        assert (await peer.receive("join"))["since"] == {"epoch": "7", "seq": 1}
        await peer.joined(seq=1, recovered=True)
        for seq in (2, 3):
            await peer.message(seq)
        assert await seqs(client, 3) == [1, 2, 3]
        assert (await client.counts())["holes"] == 1
        assert await client.events("gap", "reset") == []


async def test_a_hole_that_resuming_does_not_close_is_reported(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        await join(client, peer)
        await peer.message(2)
        peer = await server.welcomed()
        await peer.receive("join")
        await peer.joined(recovered=True)
        await peer.message(2)
        await peer.send("gap", room="r", **{"from": 3, "to": 5})
        await peer.message(6)
        assert await seqs(client, 2) == [2, 6]
        assert await client.counts() == {"duplicates": 0, "holes": 2, "connects": 2}
        assert await client.events("gap", "reset") == [
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
    ids=["gap", "nothing", "reset", "epoch", "recovered"],
)
async def test_unrecovered_messages_are_reported(
    make: MakeDriver, server: Scripted, joined: dict[str, Any], told: list[Any]
) -> None:
    async with alice(make, server) as (client, peer):
        await join(client, peer, seq=5)
        peer.connection.transport.abort()
        peer = await server.welcomed()
        await peer.receive("join")
        await peer.joined(**joined)
        await has_read_all(client, peer)
        assert await client.events("gap", "reset") == told


@pytest.mark.parametrize("answer", ["joined", "unavailable", "forbidden"])
async def test_a_room_left_while_it_is_joined_again_leaves_its_answer_behind(
    make: MakeDriver, server: Scripted, answer: str
) -> None:
    async with alice(make, server) as (client, peer):
        await join(client, peer)
        server.cut_all()
        peer = await server.welcomed()
        await peer.receive("join")
        leaving = await client.begin("leave", "r")
        await peer.receive("leave")
        joining = await client.begin("join", "r", since={"epoch": "7", "seq": 5})
        await peer.receive("join")
        if answer == "joined":
            await peer.joined(seq=8)
        else:
            await peer.send("error", code=answer, message="no", room="r")
        await peer.send("left", room="r")
        await peer.joined(seq=5, recovered=True)
        await value(leaving)
        await value(joining)
        await peer.message(6)
        await client.messages(1)
        await peer.nothing(within_s=0.6)
        assert await seqs(client, 1) == [6]
        assert await client.rooms() == ["r"]
        assert await client.events("gap", "reset") == []


async def test_a_reset_begins_the_count_at_its_seq(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        await join(client, peer, seq=5)
        await peer.send("reset", room="r", epoch="8", seq=0)
        await peer.message(1)
        await client.messages(1)
        assert (await client.room("r"))["position"] == {"epoch": "8", "seq": 1}
        assert await client.events("gap", "reset") == [{"type": "reset", "room": "r", "epoch": "8", "seq": 0}]


async def test_a_message_of_another_epoch_is_not_taken_for_the_next_one(make: MakeDriver, server: Scripted) -> None:
    """Its `reset` was lost. If a resume does not bring it, the client reports one."""
    async with alice(make, server) as (client, peer):
        await join(client, peer, seq=5)
        await peer.message(6, epoch="7")
        assert await seqs(client, 1) == [6]
        await peer.message(7, epoch="8")
        peer = await server.welcomed()
        assert (await peer.receive("join"))["since"] == {"epoch": "7", "seq": 6}
        await peer.joined(seq=6, recovered=True)
        await peer.message(7, epoch="8")
        await peer.message(8, epoch="8")
        assert [(each["epoch"], each["seq"]) for each in (await client.messages(3))[1:]] == [("8", 7), ("8", 8)]
        assert await client.events("gap", "reset") == [{"type": "reset", "room": "r", "epoch": "8", "seq": 6}]
        assert await client.counts() == {"duplicates": 0, "holes": 2, "connects": 2}


async def test_a_reconnect_event_is_obeyed_and_the_old_connection_serves_until_then(
    make: MakeDriver, server: Scripted
) -> None:
    async with alice(make, server) as (client, peer):
        await join(client, peer)
        hinted = time.monotonic()
        await peer.send("reconnect", after_ms=1000, reason="going away")
        await peer.message(1)
        assert await seqs(client, 1) == [1]
        closing = asyncio.ensure_future(peer.closed())
        again = await server.welcomed()
        assert time.monotonic() - hinted >= 1
        assert await closing == client.hang_up_code
        assert (await again.receive("join"))["since"]["seq"] == 1
        await again.send("reconnect", after_ms=1000, reason="going away")
        hinted = time.monotonic()
        await again.connection.close(1001)
        await server.welcomed()
        assert time.monotonic() - hinted >= 1


async def test_a_wait_before_the_next_attempt_can_be_ended(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        await client.retry_now()  # nothing to end
        await peer.send("reconnect", after_ms=600_000, reason="going away")
        await has_read_all(client, peer)
        await client.retry_now()
        await peer.connection.close(1001)
        await client.until(state="reconnecting")
        await server.no_peer(within_s=0.5)
        await client.retry_now()
        await server.welcomed()
        await client.until(state="connected", connects=2)


async def test_it_comes_back_after_all_close_codes_but_one(make: MakeDriver, server: Scripted) -> None:
    codes = [1000, 1001, 1002, 1003, 1007, 1009, 1011, 1012, 1013, 4000]
    async with alice(make, server) as (client, peer):
        for code in codes:
            await peer.connection.close(code, "because")
            peer = await server.welcomed()
        await client.until(state="connected", connects=len(codes) + 1)
        reasons = [reason for state, reason in await client.states() if state == "reconnecting"]
        assert reasons == [f"closed with {code}: because" for code in codes]


async def test_a_silent_server_is_left(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        peer.connection.transport.abort()
        peer = await server.welcomed(heartbeat_s=1)
        ping = await peer.receive("ping")
        await peer.send("pong", t=ping["t"])
        await peer.receive("ping")
        assert await peer.closed() == client.abort_code
        await server.welcomed()
        await client.until(connects=3)
        assert ("reconnecting", "the server does not answer") in await client.states()


async def test_a_server_that_owes_an_answer_is_pinged_sooner(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        publishing = await publish(client, peer, [1])
        asked = time.monotonic()
        await peer.receive("ping")
        assert time.monotonic() - asked < 20  # of a heartbeat of 25 s
        await acknowledge(peer, {1: 1})
        assert await value(publishing[1]) == 1


# Permissions.


async def test_a_fresh_token_is_requested_after_a_refusal(make: MakeDriver, server: Scripted) -> None:
    given: list[str] = []

    async def token() -> str:
        given.append(f"T{len(given)}")
        return given[-1]

    async with alice(make, server, token_factory=token) as (client, peer):
        await join(client, peer)
        await peer.send("expiring", expires=1.0)
        assert (await peer.receive("auth"))["token"] == "T1"
        await peer.connection.close(1008, "the token expired")
        peer = await server.welcomed()
        assert peer.token == "T2"
        async with client.refused(server, 1):
            peer.connection.transport.abort()
        peer = await server.welcomed()
        assert peer.token == "T3"
        await peer.receive("join")
        publishing = await publish(client, peer, [1])
        async with client.refused(server, 3):
            peer.connection.transport.abort()
        for call in (publishing[1], await client.begin("join", "s")):
            outcome = await call.outcome()
            assert outcome["name"] == "Closed"
            assert client.refusal in outcome["message"]
        await client.until(state="closed")
    assert given == ["T0", "T1", "T2", "T3", "T4", "T5"]


async def test_a_fixed_token_is_shown_twice_before_the_client_ends(make: MakeDriver, server: Scripted) -> None:
    """The clocks may differ, so that the token is valid some seconds later."""
    async with make(server.url, token="T") as client:
        connecting = asyncio.ensure_future(client.connect())
        async with client.refused(server, 1):
            pass
        peer = await server.welcomed()
        await connecting
        async with client.refused(server, 1):
            peer.connection.transport.abort()
        peer = await server.welcomed()
        await client.until(state="connected", connects=2)
        # Once accepted, a token is refused on purpose: the user was disconnected, or the token has expired.
        await peer.connection.close(1008, "disconnected by the operator")
        await client.until(state="closed")
        assert [reason for state, reason in await client.states() if state == "closed"] == [
            "closed with 1008: disconnected by the operator"
        ]


@pytest.mark.parametrize("kind", ["token", "ticket"])
async def test_a_credential_that_no_request_has_room_for_ends_the_client_before_it_dials(
    make: MakeDriver, server: Scripted, kind: str
) -> None:
    async def much() -> str:
        return "secret" * 2000

    async with make(server.url, **{f"{kind}_factory": much}) as client:
        connecting = asyncio.ensure_future(client.connect())
        await client.until(state="closed")
        [reason] = [reason for state, reason in await client.states() if state == "closed"]
        assert "characters, and the limit" in reason
        assert "8000" in reason
        assert "secret" not in reason
        with pytest.raises(Exception, match="characters, and the limit"):
            await connecting


async def test_the_refusal_of_a_token_that_waited_for_a_connection_does_not_count(
    make: MakeDriver, server: Scripted
) -> None:
    """The token may have expired while the service was down."""
    given: list[str] = []

    async def token() -> str:
        given.append(f"T{len(given)}")
        return given[-1]

    async with proxy() as balancer, make(balancer.url, token_factory=token) as client:
        balancer.ports = [1]
        connecting = asyncio.ensure_future(client.connect())
        await until(lambda: balancer.accepted >= 2)
        async with client.refused(server, 2):
            balancer.ports = [server.port]
        peer = await server.welcomed()
        await connecting
        assert peer.token == "T2"
    assert given == ["T0", "T1", "T2"]


@pytest.mark.parametrize("kind", ["token_factory", "ticket_factory"])
async def test_a_source_of_credentials_that_hangs_is_called_again(
    make: MakeDriver, server: Scripted, kind: str
) -> None:
    calls, end = 0, asyncio.Event()

    async def source() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            await end.wait()
        return f"T{calls}"

    async with alice(make, server, **{kind: source}) as (_client, peer):
        assert "T2" in (peer.token or peer.path)
        end.set()


async def test_a_failing_source_of_tokens_is_called_again(make: MakeDriver, server: Scripted) -> None:
    answers: list[Exception | str] = [OSError("no route"), KeyError("token"), "T"]

    async def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with alice(make, server, token_factory=token) as (_client, peer):
        assert peer.token == "T"


@pytest.mark.parametrize("kind", ["token_factory", "ticket_factory"])
async def test_a_source_that_gives_no_text_is_called_again(make: MakeDriver, server: Scripted, kind: str) -> None:
    answers: list[object] = [None, {"error": "busy"}, "T"]

    async def source() -> object:
        return answers.pop(0)

    async with alice(make, server, **{kind: source}) as (client, peer):
        assert (peer.token or peer.path) in ("T", "/ws?ticket=T")
        assert ["and no text" in reason for _state, reason in await client.states()][:2] == [True, True]


@pytest.mark.parametrize("token", ["T\n", "", "a b", "ü"])
async def test_a_token_that_no_request_can_have_ends_the_client_and_is_not_repeated(
    make: MakeDriver, server: Scripted, token: str
) -> None:
    async def source() -> str:
        return token

    async with make(server.url, token_factory=source) as client:
        with pytest.raises(Exception, match="no token has"):
            await asyncio.wait_for(client.connect(), 20)
        [(_state, reason)] = [each for each in await client.states() if each[0] == "closed"]
        assert "no token has" in reason


async def test_a_ticket_is_for_one_handshake(make: MakeDriver, server: Scripted) -> None:
    tickets = iter(["a/b", "c"])

    async def ticket() -> str:
        return next(tickets)

    async with alice(make, server, ticket_factory=ticket) as (_client, peer):
        assert (peer.path, peer.token) == ("/ws?ticket=a%2Fb", "")
        await peer.connection.close(1008, "expired")
        assert (await server.welcomed()).path == "/ws?ticket=c"


async def test_close_ends_all_calls_that_wait(make: MakeDriver, server: Scripted) -> None:
    async with alice(make, server) as (client, peer):
        waiting = [
            await client.begin("publish", "r", 1),
            await client.begin("presence", "r"),
            await client.begin("join", "s"),
        ]
        measuring = await client.begin("ping")
        await peer.receive("publish")
        await client.close()
        for call in waiting:
            assert await call.outcome() == {"name": "Closed", "message": "closed by the application"}
        assert await failure(measuring) == (client.lost_ping, None)
        await asyncio.wait_for(peer.connection.wait_closed(), 20)


# Real workers.


@pytest.fixture
def start_worker(start: Start) -> Start:
    """Start a worker that the browser's pages may connect to."""
    return partial(start, WS_ALLOWED_ORIGINS=ORIGIN)


@pytest.fixture
def previous_worker(redis: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Start a worker of the previous release that the browser's pages may connect to."""
    source = previous_release(tmp_path)
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(PreviousWorker(redis.url, source, WS_ALLOWED_ORIGINS=ORIGIN))
        return workers[-1]

    yield start
    for worker in workers:
        worker.remove()


async def kill_in_turn(workers: list[Worker]) -> None:
    for worker in workers:
        worker.signal(signal.SIGKILL)
        await asyncio.sleep(0.5)
        worker.start_again()
        await worker.ready()


async def test_kill_9_of_a_worker_loses_and_doubles_nothing(talk: MakeTalk, start_worker: Start) -> None:
    workers = [await start_worker().ready(), await start_worker().ready()]
    async with proxy(*(worker.port for worker in workers)) as balancer, talk(balancer.url):
        await kill_in_turn(workers)


async def test_a_drained_worker_loses_and_doubles_nothing(talk: MakeTalk, start_worker: Start) -> None:
    workers = [await start_worker().ready(), await start_worker().ready()]
    async with proxy(*(worker.port for worker in workers)) as balancer, talk(balancer.url):
        workers[0].signal(signal.SIGTERM)
        await until(lambda: workers[0].process.poll() == 0)


async def test_clients_move_between_the_previous_release_and_this_one(
    talk: MakeTalk, start_worker: Start, previous_worker: Start
) -> None:
    """In a rollout, workers of both releases serve one room."""
    workers = [await previous_worker().ready(), await start_worker().ready()]
    async with proxy(*(worker.port for worker in workers)) as balancer, talk(balancer.url):
        await kill_in_turn(workers)


async def test_a_silently_dead_connection_is_noticed(talk: MakeTalk, start_worker: Start) -> None:
    worker = await start_worker(WS_HEARTBEAT_S="1").ready()
    async with proxy(worker.port) as balancer, talk(balancer.url) as clients:
        balancer.frozen = True
        await clients.until_cut_off()
        await until(lambda: balancer.accepted > clients.clients)  # a client dials into the dead network, too
        balancer.frozen = False
        await clients.until_back()


async def test_a_publish_whose_ack_was_lost_is_published_once(make: MakeDriver, start_worker: Start) -> None:
    worker = await start_worker().ready()
    async with (
        proxy(worker.port) as balancer,
        make(balancer.url, token=mint(SECRET, "alice", 600)) as alice,
        make(f"ws://127.0.0.1:{worker.port}/ws", token=mint(SECRET, "bob", 600)) as bob,
    ):
        await alice.connect()
        await bob.connect()
        await value(await bob.begin("join", "r"))
        balancer.mute = True
        publishing = await alice.begin("publish", "r", "once")
        await bob.messages(1)
        balancer.cut()
        balancer.mute = False
        assert await value(publishing) == 1
        assert (await alice.counts())["connects"] == 2
        assert await value(await bob.begin("publish", "r", "next")) == 2
        assert [message["data"] for message in await bob.messages(2)] == ["once", "next"]
