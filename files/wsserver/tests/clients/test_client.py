# SPDX-License-Identifier: MIT
"""The client, against a server that says what the test wants, and against real workers that are killed."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from support.proxy import proxy
from support.redis_server import RedisServer
from support.scripted import Peer, Scripted, scripted
from support.wait import until
from support.watching import watching
from support.worker import SECRET, Worker

from wsserver.auth import mint
from wsserver.client import (
    Client,
    Closed,
    JoinError,
    Message,
    Position,
    PublishError,
    Room,
    ServerError,
    State,
    backoff,
    publishes,
)
from wsserver.protocol.messages import Event, Gap, MemberEvent, Reset

Start = Callable[..., Worker]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of a test are short, so that the waits between them would grow and grow."""
    monkeypatch.setattr(backoff, "MOST_S", 0.5)


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with scripted() as server:
        yield server


class Alice:
    """A client, the other end of its first connection, and what it was told."""

    def __init__(self, server: Scripted, **options: Any) -> None:
        self.states: list[State] = []
        self.events: list[Event] = []
        credentials = {"token": "T"} if not {"token_factory", "ticket_factory"} & options.keys() else {}
        self.client = Client(
            server.url,
            on_state=lambda state, _why: self.states.append(state),
            on_event=self.events.append,
            **credentials,
            **options,
        )
        self._server = server

    async def __aenter__(self) -> tuple[Client, Peer]:
        peer, _ = await asyncio.gather(self._server.welcomed(), self.client.__aenter__())
        return self.client, peer

    async def __aexit__(self, *exc: object) -> None:
        await self.client.__aexit__(*exc)


async def in_room(client: Client, peer: Peer, **joined: Any) -> Room:
    joining = asyncio.create_task(client.join("r"))
    await peer.receive("join")
    await peer.joined(**joined)
    return await joining


async def take(room: Room, count: int) -> list[Any]:
    async with asyncio.timeout(20):
        return [(await anext(room)).data for _ in range(count)]


# One connection.


async def test_messages_come_out_as_they_were_published(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        assert (peer.path, peer.token) == ("/ws", "T")
        room = await in_room(client, peer, seq=4)
        await peer.message(5, data={"text": "hello"})
        assert await anext(room) == Message("r", "7", 5, "bob", 1.0, {"text": "hello"})
        assert room.position == ("7", 5)
        leaving = asyncio.create_task(client.leave(room))
        await peer.receive("leave")
        await peer.message(6)
        await peer.send("left", room="r")
        await leaving
        assert [message async for message in room] == []


async def say(peer: Peer, event: str) -> None:
    """What json.dumps does not write."""
    await peer.connection.send(event)


async def test_numbers_that_are_out_of_range_are_what_javascript_makes_of_them(server: Scripted) -> None:
    numbers = ["1e400", "-1e400", "9" * 5000, "9" * 30]
    async with Alice(server) as (client, peer):
        room = await in_room(client, peer)
        for seq, number in enumerate(numbers, 1):
            await say(peer, f'{{"type":"message","room":"r","seq":{seq},"from":"bob","ts":1,"data":[{number}]}}')
        read = [[math.inf], [-math.inf], [math.inf], [int("9" * 30)]]
        assert await take(room, 4) == read
        asking = asyncio.create_task(client.history("r"))
        await peer.receive("history")
        entries = [
            f'{{"epoch":"7","seq":{seq},"from":"bob","ts":1,"data":[{number}]}}'
            for seq, number in enumerate(numbers, 1)
        ]
        await say(peer, f'{{"type":"history","room":"r","messages":[{",".join(entries)}],"more":false}}')
        assert [message.data for message in (await asking).messages] == read
        assert client.connects == 1


async def test_a_message_that_cannot_be_read_is_told_as_a_gap(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(data: msgspec.Raw) -> Any:
        if bytes(data) == b"2":
            raise RecursionError("too deep")
        return json.loads(bytes(data))

    monkeypatch.setattr(msgspec.json, "decode", read)
    alice = Alice(server)
    async with alice as (client, peer):
        room = await in_room(client, peer)
        for seq in (1, 2, 3):
            await peer.message(seq)
        assert await take(room, 2) == [1, 3]
        asking = asyncio.create_task(client.history("r"))
        await peer.receive("history")
        entries = [{"epoch": "7", "seq": seq, "from": "bob", "ts": 1.0, "data": seq} for seq in (1, 2)]
        await peer.send("history", room="r", messages=entries, more=False)
        assert [message.data for message in (await asking).messages] == [1]
        assert [event for event in alice.events if isinstance(event, Gap)] == [Gap("r", 2, 2)] * 2
        assert client.connects == 1


async def test_a_frame_that_is_nested_too_deeply_shows_as_a_hole(server: Scripted) -> None:
    deep = f'{{"type":"message","room":"r","seq":1,"from":"bob","ts":1,"data":{"[" * 2000}{"]" * 2000}}}'
    alice = Alice(server)
    async with alice as (client, peer):
        room = await in_room(client, peer)
        for _ in range(2):
            await say(peer, deep)
            await peer.message(2)
            if client.connects == 1:
                peer = await server.welcomed()
                await peer.receive("join")
                await peer.joined(recovered=True)
        assert await take(room, 1) == [2]
        assert [event for event in alice.events if isinstance(event, Gap)] == [Gap("r", 1, 1)]


async def test_a_callback_instead_of_iteration_may_fail(server: Scripted) -> None:
    heard: list[int] = []

    def on_message(message: Message) -> None:
        heard.append(message.seq)
        raise ZeroDivisionError

    async with Alice(server) as (client, peer):
        joining = asyncio.create_task(client.join("r", on_message=on_message))
        await peer.receive("join")
        await peer.joined()
        await joining
        for seq in (1, 2):
            await peer.message(seq)
        await until(lambda: heard == [1, 2])
        assert client.connects == 1


async def test_publishes_are_acknowledged_and_refused(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        publishing = [asyncio.create_task(client.publish("r", n, id=str(n))) for n in range(3)]
        assert [await peer.receive("publish") for _ in range(3)] == [
            {"type": "publish", "room": "r", "data": n, "id": str(n)} for n in range(3)
        ]
        await peer.send("ack", id="1", room="r", seq=11)
        await peer.send("ack", id="0", room="r", seq=10)
        await peer.send("error", code="forbidden", message="no", id="2")
        assert await asyncio.gather(*publishing[:2]) == [10, 11]
        with pytest.raises(PublishError, match="no") as refused:
            await publishing[2]
        assert refused.value.code == "forbidden"
        with pytest.raises(TypeError):
            await client.publish("r", object())


async def test_a_refusal_that_passes_is_repeated_before_anything_newer(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        first = asyncio.create_task(client.publish("r", 1, id="1"))
        await peer.receive("publish")
        told = time.monotonic()
        await peer.send("error", code="rate_limited", message="slower", id="1", retry_after_ms=500)
        await asyncio.sleep(0.1)
        second = asyncio.create_task(client.publish("r", 2, id="2"))
        assert [(await peer.receive("publish"))["id"] for _ in range(2)] == ["1", "2"]
        assert time.monotonic() - told >= 0.5
        await peer.send("error", code="outcome_unknown", message="?", id="1")
        assert (await peer.receive("publish"))["id"] == "1"
        for id, seq in (("1", 1), ("2", 2)):
            await peer.send("ack", id=id, room="r", seq=seq)
        assert await asyncio.gather(first, second) == [1, 2]


async def test_what_may_have_been_published_is_not_repeated_once_the_server_has_forgotten(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishes, "_REPEATED_FOR_S", 0.2)
    async with Alice(server) as (client, peer):
        doubtful, refused = (asyncio.create_task(client.publish("r", id, id=id)) for id in ("doubtful", "refused"))
        for _ in range(2):
            await peer.receive("publish")
        await asyncio.sleep(0.3)
        # Of this one it is known that nothing was published, however long ago.
        await peer.send("error", code="unavailable", message="?", id="refused")
        await peer.send("error", code="outcome_unknown", message="?", id="doubtful")
        assert (await peer.receive("publish"))["id"] == "refused"
        await peer.send("ack", id="refused", room="r", seq=1)
        assert await refused == 1
        with pytest.raises(PublishError, match="not known") as error:
            await doubtful
        assert error.value.code == "outcome_unknown"


async def test_a_publish_in_doubt_is_not_repeated_after_the_computer_slept(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Alice(server) as (client, peer):
        publishing = asyncio.create_task(client.publish("r", 1, id="1"))
        await peer.receive("publish")
        # What Linux does to its clocks meanwhile: the monotonic one stands still.
        running = time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", lambda clock: running(clock) + 300)
        await peer.send("error", code="outcome_unknown", message="?", id="1")
        with pytest.raises(PublishError, match="not known"):
            await asyncio.wait_for(publishing, 10)


async def test_a_message_that_the_server_would_close_for_is_not_sent(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        with pytest.raises(PublishError, match="65536") as refused:
            await client.publish("r", "x" * 65536)
        assert refused.value.code == "too_big"
        await peer.nothing(0.2)


async def test_no_more_than_a_window_is_unacknowledged(server: Scripted) -> None:
    async with Alice(server, max_unacknowledged=2) as (client, peer):
        publishing = [asyncio.create_task(client.publish("r", n, id=str(n))) for n in range(3)]
        for _ in range(2):
            await peer.receive("publish")
        await peer.nothing(0.2)
        await peer.send("ack", id="0", room="r", seq=1)
        assert (await peer.receive("publish"))["id"] == "2"
        for id in ("1", "2"):
            await peer.send("ack", id=id, room="r", seq=int(id) + 1)
        assert await asyncio.gather(*publishing) == [1, 2, 3]


async def test_questions_get_their_own_answers(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        past = asyncio.create_task(client.history("r", before=Position("7", 9), limit=2))
        present = asyncio.create_task(client.presence("r", after="a"))
        refused = asyncio.create_task(client.presence("r"))
        assert (await peer.receive("history"))["before"] == {"epoch": "7", "seq": 9}
        assert (await peer.receive("presence"))["after"] == "a"
        await peer.receive("presence")
        entry = {"epoch": "7", "seq": 8, "from": "bob", "ts": 1.5, "data": [1]}
        await peer.send("history", room="r", messages=[entry], more=True)
        await peer.send("presence", room="r", members=[{"user": "bob", "connections": 2}], count=1, more=False)
        await peer.send("error", code="forbidden", message="no", room="r")
        assert await past == ([Message("r", "7", 8, "bob", 1.5, [1])], True)
        page = await present
        assert [(member.user, member.connections) for member in page.members] == [("bob", 2)]
        with pytest.raises(ServerError, match="no"):
            await refused
        measuring = asyncio.create_task(client.ping())
        ping = await peer.receive("ping")
        await asyncio.sleep(0.1)
        await peer.send("pong", t=ping["t"])
        assert await measuring >= 0.1


async def test_a_room_that_one_may_not_join(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        joining = asyncio.create_task(client.join("r"))
        await peer.receive("join")
        await peer.send("error", code="unavailable", message="later", room="r")
        await peer.receive("join")
        await peer.send("error", code="forbidden", message="no", room="r")
        with pytest.raises(JoinError, match="no"):
            await joining
        room = await in_room(client, peer)
        with pytest.raises(ValueError, match="already"):
            await client.join("r")
        await peer.send("error", code="forbidden", message="the new token is for fewer rooms", room="r")
        with pytest.raises(JoinError, match="fewer"):
            await anext(room)


async def test_members_and_what_is_unknown(server: Scripted) -> None:
    alice = Alice(server)
    async with alice as (client, peer):
        joining = asyncio.create_task(client.join("r", members=True))
        assert (await peer.receive("join"))["members"] is True
        await peer.joined()
        await joining
        await peer.send("of a later version", room=5)
        await peer.send("member", room="r", user="bob", event="join", later="too")
        await until(lambda: MemberEvent("r", "bob", "join") in alice.events)
        assert client.connects == 1


@pytest.mark.parametrize("event", ['{"type":"message","room":"r","seq":"1"}', '{"room":"r"}', "[]"])
async def test_an_event_that_the_client_does_not_know_is_passed_over_and_logged(
    server: Scripted, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    async with Alice(server) as (client, peer):
        await say(peer, event)
        await until(lambda: "does not know is passed over" in caplog.text)
        await in_room(client, peer)
        assert client.connects == 1


async def test_an_application_that_does_not_take_messages_stops_the_reading(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        room = await in_room(client, peer)
        for seq in range(1, 3001):
            await peer.message(seq)
        await until(lambda: room.unread == 1000)
        await asyncio.sleep(0.3)
        assert room.unread == 1000
        # Whoever waits for an acknowledgement takes no messages meanwhile, and gets it all the same.
        publishing = asyncio.create_task(client.publish("r", 1, id="1"))
        await peer.receive("publish")
        await asyncio.gather(peer.send("ack", id="1", room="r", seq=3001), publishing)
        assert await take(room, 3000) == list(range(1, 3001))
        assert client.connects == 1


# From one connection to the next.


async def test_after_a_break_it_resumes_and_repeats_in_order_before_what_is_new(server: Scripted) -> None:
    alice = Alice(server)
    async with alice as (client, peer):
        room = await in_room(client, peer, seq=3)
        await peer.message(4)
        publishing = [asyncio.create_task(client.publish("r", n, id=str(n))) for n in range(3)]
        for _ in range(3):
            await peer.receive("publish")
        await peer.send("ack", id="1", room="r", seq=9)
        await until(publishing[1].done)
        peer.connection.transport.abort()
        await until(lambda: client.state is State.RECONNECTING)
        publishing.append(asyncio.create_task(client.publish("r", 3, id="3")))
        asking = asyncio.create_task(client.presence("r"))
        peer = await server.welcomed()
        assert (await peer.receive("join"))["since"] == {"epoch": "7", "seq": 4}
        await peer.receive("presence")
        assert [(await peer.receive("publish"))["id"] for _ in range(3)] == ["0", "2", "3"]
        await peer.joined(seq=4, recovered=True)
        await peer.send("presence", room="r", members=[], count=0, more=False)
        await asking
        await peer.message(5)
        for id in ("0", "2", "3"):
            await peer.send("ack", id=id, room="r", seq=10)
        await asyncio.gather(*publishing)
        assert await take(room, 2) == [4, 5]
        assert room.recovered
    assert alice.states == [State.CONNECTED, State.RECONNECTING, State.CONNECTED, State.CLOSED]
    assert [event for event in alice.events if isinstance(event, Gap | Reset)] == []


async def test_what_comes_twice_is_dropped_and_counted(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        room = await in_room(client, peer)
        for seq in (1, 2, 2, 1, 3):
            await peer.message(seq)
        assert await take(room, 3) == [1, 2, 3]
        assert (client.duplicates, client.holes, client.connects) == (2, 0, 1)


async def test_a_hole_is_mended_by_resuming(server: Scripted) -> None:
    alice = Alice(server)
    async with alice as (client, peer):
        room = await in_room(client, peer)
        await peer.message(1)
        await peer.message(3)
        assert await peer.closed() == 1006
        peer = await server.welcomed()
        assert (await peer.receive("join"))["since"] == {"epoch": "7", "seq": 1}
        await peer.joined(seq=1, recovered=True)
        for seq in (2, 3):
            await peer.message(seq)
        assert await take(room, 3) == [1, 2, 3]
        assert client.holes == 1
        assert [event for event in alice.events if isinstance(event, Gap)] == []


async def test_a_hole_that_resuming_does_not_mend_is_told(server: Scripted) -> None:
    alice = Alice(server)
    async with alice as (client, peer):
        room = await in_room(client, peer)
        await peer.message(2)
        peer = await server.welcomed()
        await peer.receive("join")
        await peer.joined(recovered=True)
        await peer.message(2)
        await peer.send("gap", room="r", **{"from": 3, "to": 5})
        await peer.message(6)
        assert await take(room, 2) == [2, 6]
        assert [event for event in alice.events if isinstance(event, Gap)] == [Gap("r", 1, 1), Gap("r", 3, 5)]
        assert (client.holes, client.connects) == (2, 2)


@pytest.mark.parametrize(
    ("joined", "told"),
    [
        ({"seq": 9}, [Gap("r", 6, 9)]),
        ({"seq": 5}, []),
        ({"seq": 2}, [Reset("r", "7", 2)]),
        ({"epoch": "8", "seq": 2}, [Reset("r", "8", 2)]),
        ({"seq": 9, "recovered": True}, []),  # the hole shows with the first message
    ],
)
async def test_what_could_not_be_recovered_is_told(server: Scripted, joined: dict[str, Any], told: list[Event]) -> None:
    alice = Alice(server)
    async with alice as (client, peer):
        room = await in_room(client, peer, seq=5)
        peer.connection.transport.abort()
        peer = await server.welcomed()
        await peer.receive("join")
        await peer.joined(**joined)
        await until(lambda: client.connects == 2 and room.joined)
        assert [event for event in alice.events if isinstance(event, Gap | Reset)] == told


async def test_the_answer_to_a_join_that_was_given_up_is_not_for_a_later_one(server: Scripted) -> None:
    alice = Alice(server)
    async with alice as (client, peer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.join("r"), 0.1)
        joining = asyncio.create_task(client.join("r", since=Position("7", 5)))
        await peer.receive("join")
        await peer.receive("join")
        await peer.joined(seq=8)
        await peer.message(9)
        await peer.joined(seq=5, recovered=True)
        for seq in (6, 7, 8, 9):
            await peer.message(seq)
        assert await take(await joining, 4) == [6, 7, 8, 9]
        assert client.duplicates == 0
        assert not any(isinstance(event, Gap) for event in alice.events)


async def test_the_refusal_of_a_join_that_was_given_up_is_not_for_a_later_one(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        for code in ("unavailable", "forbidden"):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.join("r"), 0.1)
            joining = asyncio.create_task(client.join("r"))
            await peer.receive("join")
            await peer.receive("join")
            await peer.send("error", code=code, message="no", room="r")
            await peer.joined()
            room = await joining
            await peer.nothing(within_s=0.6)
            leaving = asyncio.create_task(client.leave(room))
            await peer.receive("leave")
            await peer.send("left", room="r")
            await leaving


async def test_a_room_left_while_it_is_joined_again_leaves_its_answer_behind(server: Scripted) -> None:
    alice = Alice(server)
    async with alice as (client, peer):
        room = await in_room(client, peer)
        server.cut_all()
        peer = await server.welcomed()
        await peer.receive("join")
        leaving = asyncio.create_task(client.leave(room))
        await peer.receive("leave")
        joining = asyncio.create_task(client.join("r", since=Position("7", 5)))
        await peer.receive("join")
        await peer.joined(seq=8)
        await peer.send("left", room="r")
        await peer.joined(seq=5, recovered=True)
        await leaving
        await peer.message(6)
        assert await take(await joining, 1) == [6]
        assert not any(isinstance(event, Gap) for event in alice.events)


async def test_a_reset_begins_the_count_anew(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        room = await in_room(client, peer, seq=5)
        await peer.send("reset", room="r", epoch="8", seq=0)
        await peer.message(1)
        await anext(room)
        assert room.position == ("8", 1)


async def test_the_hint_to_reconnect_is_obeyed_and_the_old_connection_serves_until_then(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        room = await in_room(client, peer)
        hinted = time.monotonic()
        await peer.send("reconnect", after_ms=1000, reason="going away")
        await peer.message(1)
        assert await take(room, 1) == [1]
        closing = asyncio.create_task(peer.closed())
        again = await server.welcomed()
        assert time.monotonic() - hinted >= 1
        assert await closing == 1000
        assert (await again.receive("join"))["since"]["seq"] == 1
        await again.send("reconnect", after_ms=1000, reason="going away")
        hinted = time.monotonic()
        await again.connection.close(1001)
        await server.welcomed()
        assert time.monotonic() - hinted >= 1


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1009, 1011, 1012, 1013, 4000])
async def test_it_comes_back_after_close_code(server: Scripted, code: int) -> None:
    async with Alice(server) as (client, peer):
        await peer.connection.close(code, "because")
        await server.welcomed()
        await until(lambda: client.state is State.CONNECTED)


async def test_a_server_that_falls_silent_is_left(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        peer.connection.transport.abort()
        peer = await server.welcomed(heartbeat_s=1)
        ping = await peer.receive("ping")
        await peer.send("pong", t=ping["t"])
        await peer.receive("ping")
        assert await peer.closed() == 1006
        await server.welcomed()
        await until(lambda: client.connects == 3)


async def test_a_server_that_owes_an_answer_is_asked_sooner(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        publishing = asyncio.create_task(client.publish("r", 1, id="1"))
        await peer.receive("publish")
        asked = time.monotonic()
        await peer.receive("ping")
        assert time.monotonic() - asked < 20  # of a heartbeat of 25 s
        await peer.send("ack", id="1", room="r", seq=1)
        assert await publishing == 1


# Who may.


async def refused(client: Client) -> str:
    with pytest.raises(Closed) as closed:
        await asyncio.wait_for(client.__aenter__(), 20)
    assert client.state is State.CLOSED
    return str(closed.value)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_is_refused_is_final(server: Scripted, status: int) -> None:
    server.refusals = [503, 429, status]
    assert str(status) in await refused(Client(server.url, token="T"))
    with pytest.raises(ValueError, match="one of"):
        Client(server.url)


async def test_a_fresh_token_is_asked_for_when_one_was_refused(server: Scripted) -> None:
    given: list[str] = []

    async def token() -> str:
        given.append(f"T{len(given)}")
        return given[-1]

    async with Alice(server, token_factory=token) as (client, peer):
        room = await in_room(client, peer)
        await peer.send("expiring", expires=1.0)
        assert (await peer.receive("auth"))["token"] == "T1"
        await peer.connection.close(1008, "the token expired")
        peer = await server.welcomed()
        assert peer.token == "T2"
        server.refusals = [401]
        peer.connection.transport.abort()
        peer = await server.welcomed()
        assert peer.token == "T3"
        server.refusals = [401, 401]
        publishing = asyncio.create_task(client.publish("r", 1))
        peer.connection.transport.abort()
        with pytest.raises(Closed, match="401"):
            await publishing
        with pytest.raises(Closed, match="401"):
            await anext(room)
        with pytest.raises(Closed, match="401"):
            await client.join("s")
    assert given == ["T0", "T1", "T2", "T3", "T4"]


async def test_a_source_of_tokens_that_fails_is_asked_again(server: Scripted) -> None:
    answers: list[Exception | str] = [OSError("no route"), KeyError("token"), "T"]

    async def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Alice(server, token_factory=token) as (_client, peer):
        assert peer.token == "T"


async def test_a_ticket_is_for_one_handshake(server: Scripted) -> None:
    tickets = iter(["a/b", "c"])

    async def ticket() -> str:
        return next(tickets)

    async with Alice(server, ticket_factory=ticket) as (_client, peer):
        assert (peer.path, peer.token) == ("/ws?ticket=a%2Fb", "")
        await peer.connection.close(1008, "expired")
        assert (await server.welcomed()).path == "/ws?ticket=c"


async def test_close_tells_whoever_waits(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        room = await in_room(client, peer)
        waiting = [asyncio.create_task(work) for work in (client.publish("r", 1), client.presence("r"), client.ping())]
        reading = asyncio.create_task(anext(room, "the end"))
        joining = asyncio.create_task(client.join("s"))
        await peer.receive("publish")
        await asyncio.sleep(0.1)
    for task in (*waiting, joining):
        with pytest.raises(Closed):
            await task
    assert await reading == "the end"


def test_waits_grow_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waits = [backoff.Backoff() for _ in range(400)]
    for longest in (1, 2, 4, 8, 16, 20, 20):
        chosen = [wait.next() for wait in waits]
        assert 0 <= min(chosen) < longest * 0.1
        assert longest * 0.9 < max(chosen) <= longest
    waits[0].reset()
    assert waits[0].next() <= 1


# Real workers.


async def test_kill_9_of_a_worker_loses_and_doubles_nothing(start: Start) -> None:
    workers = [await start().ready(), await start().ready()]
    async with proxy(*(worker.port for worker in workers)) as balancer, watching(balancer.url):
        for worker in workers:
            worker.signal(signal.SIGKILL)
            await asyncio.sleep(0.5)
            worker.start_again()
            await worker.ready()


async def test_a_drained_worker_loses_and_doubles_nothing(start: Start) -> None:
    workers = [await start().ready(), await start().ready()]
    async with proxy(*(worker.port for worker in workers)) as balancer, watching(balancer.url):
        workers[0].signal(signal.SIGTERM)
        await until(lambda: workers[0].process.poll() == 0)


async def test_redis_killed_and_started_again_loses_and_doubles_nothing(start: Start, redis: RedisServer) -> None:
    worker = await start().ready()
    async with proxy(worker.port) as balancer, watching(balancer.url):
        redis.kill()
        await asyncio.sleep(0.5)
        redis.start()


async def test_a_connection_that_is_dead_without_a_word_is_noticed(start: Start) -> None:
    worker = await start(WS_HEARTBEAT_S="1").ready()
    async with proxy(worker.port) as balancer:
        async with watching(balancer.url) as witness:
            balancer.frozen = True
            await until(lambda: not any(client.connected for client in witness.clients))
            await until(lambda: balancer.accepted > len(witness.clients))  # somebody dials into the dead network, too
            balancer.frozen = False
            await until(lambda: all(client.connected for client in witness.clients))
        assert all(client.disconnects for client in witness.clients)


async def test_a_publish_whose_ack_was_lost_is_published_once(start: Start) -> None:
    worker = await start().ready()
    async with (
        proxy(worker.port) as balancer,
        Client(balancer.url, token=mint(SECRET, "alice", 600)) as alice,
        Client(f"ws://127.0.0.1:{worker.port}/ws", token=mint(SECRET, "bob", 600)) as bob,
    ):
        room = await bob.join("r")
        balancer.mute = True
        publishing = asyncio.create_task(alice.publish("r", "once"))
        assert await take(room, 1) == ["once"]
        balancer.cut()
        balancer.mute = False
        assert await publishing == 1
        assert alice.connects == 2
        await bob.publish("r", "next")
        assert await take(room, 1) == ["next"]
