# SPDX-License-Identifier: MIT
"""Features that only the Python client has: iteration, cancelled calls, and JSON that Python cannot
represent.

test_both_clients.py tests the features that both clients have.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from support.proxy import proxy
from support.python_driver import impatient
from support.redis_server import RedisServer
from support.scripted import Peer, Scripted, scripted
from support.wait import until
from support.watching import watching
from support.worker import Worker

from wsserver.client import Client, Closed, JoinError, Message, Position, Room, State, backoff
from wsserver.protocol.events import Event, Gap

Start = Callable[..., Worker]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with scripted() as server:
        yield server


class Alice:
    """A client, the other end of its first connection, and the events that the client reported."""

    def __init__(self, server: Scripted) -> None:
        self.events: list[Event] = []
        self.client = Client(server.url, token="T", on_event=self.events.append)
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


async def say(peer: Peer, event: str) -> None:
    """Send text that json.dumps does not write."""
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


async def test_an_unreadable_message_is_reported_as_a_gap(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_what_json_cannot_say_is_a_type_error(server: Scripted) -> None:
    async with Alice(server) as (client, _peer):
        with pytest.raises(TypeError):
            await client.publish("r", object())


@pytest.mark.parametrize("event", ['{"type":"message","room":"r","seq":"1"}', '{"room":"r"}', "[]"])
async def test_an_unknown_event_is_ignored_and_logged(
    server: Scripted, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    async with Alice(server) as (client, peer):
        await say(peer, event)
        await until(lambda: "unknown event is ignored" in caplog.text)
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
        # A caller that waits for an acknowledgement reads no messages meanwhile, and still gets it.
        publishing = asyncio.create_task(client.publish("r", 1, id="1"))
        await peer.receive("publish")
        await asyncio.gather(peer.send("ack", id="1", room="r", seq=3001), publishing)
        assert await take(room, 3000) == list(range(1, 3001))
        assert client.connects == 1


async def test_the_iteration_ends_with_the_room(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        room = await in_room(client, peer)
        await peer.send("error", code="forbidden", message="the new token is for fewer rooms", room="r")
        with pytest.raises(JoinError, match="fewer"):
            await anext(room)
        with pytest.raises(JoinError, match="fewer"):
            await anext(room)


async def test_the_iteration_stops_when_the_application_closes_the_client(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        reading = asyncio.create_task(anext(await in_room(client, peer), "the end"))
        await asyncio.sleep(0)
    assert await reading == "the end"


# From one connection to the next.


async def test_the_answer_to_a_join_that_was_given_up_is_not_for_a_later_one(server: Scripted) -> None:
    alice = Alice(server)
    async with alice as (client, peer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.join("r"), 0.1)
        joining = asyncio.create_task(client.join("r", since=Position("7", 5)))
        for kind in ("join", "leave", "join"):
            await peer.receive(kind)
        await peer.joined(seq=8)
        await peer.message(9)
        await peer.send("left", room="r")
        await peer.joined(seq=5, recovered=True)
        for seq in (6, 7, 8, 9):
            await peer.message(seq)
        assert await take(await joining, 4) == [6, 7, 8, 9]
        assert client.duplicates == 0
        assert not any(isinstance(event, Gap) for event in alice.events)


async def test_a_join_that_the_caller_cancels_leaves_the_room(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.join("r"), 0.1)
            id = (await peer.receive("join"))["id"]
            leaving = await peer.receive("leave")
            assert leaving["room"] == "r"
            await peer.joined(id=id)
            await peer.send("left", room="r", id=leaving["id"])
        await until(lambda: not client._requests.any)
        assert client.rooms == {}


async def test_a_join_that_was_cancelled_before_it_was_sent_is_forgotten(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        server.refusals = [503]
        peer.connection.transport.abort()
        await until(lambda: client.state is State.RECONNECTING)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.join("r"), 0.01)
        peer = await server.welcomed()
        await peer.nothing(within_s=0.3)


async def test_the_refusal_of_a_join_that_was_given_up_is_not_for_a_later_one(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        for code in ("unavailable", "forbidden"):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.join("r"), 0.1)
            joining = asyncio.create_task(client.join("r"))
            for kind in ("join", "leave", "join"):
                await peer.receive(kind)
            await peer.send("error", code=code, message="no", room="r")
            await peer.send("left", room="r")
            await peer.joined()
            room = await joining
            await peer.nothing(within_s=0.6)
            leaving = asyncio.create_task(client.leave(room))
            await peer.receive("leave")
            await peer.send("left", room="r")
            await leaving


# Permissions.


async def refused(client: Client) -> str:
    with pytest.raises(Closed) as closed:
        await asyncio.wait_for(client.__aenter__(), 20)
    assert client.state is State.CLOSED
    return str(closed.value)


@pytest.mark.parametrize("status", [401, 403, 414, 431])
async def test_a_refused_token_is_final(server: Scripted, status: int) -> None:
    server.refusals = [status, 503, 429, status]
    # The scripted server's text is "no".
    assert f"HTTP {status}: no" in await refused(Client(server.url, token="T"))
    with pytest.raises(ValueError, match="one of"):
        Client(server.url)


@pytest.mark.parametrize(
    "url", ["https://secret.example/ws", "secret.example", "ws://", "", "ws://secret:port/", "wss://secret/ws#x"]
)
def test_a_url_that_can_never_work_fails_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="such as wss://") as bad:
        Client(url, token="T")
    assert "secret" not in str(bad.value)


def test_a_token_that_no_header_has_room_for_fails_at_once() -> None:
    with pytest.raises(ValueError, match="8001 characters, and the limit of a header is 8000: use a ticket"):
        Client("ws://localhost/ws", token="x" * 8001)


@pytest.mark.parametrize("token", ["secret\n", "secret\r\nX: y", "", "sec ret", "secr\u00e9t"])
def test_a_token_with_a_line_end_fails_at_once_and_is_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match="no token has") as bad:
        Client("ws://localhost/ws", token=token)
    assert "sec" not in str(bad.value)


async def test_a_socks_proxy_without_its_package_is_named(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)
    for name in ("all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("socks_proxy", "socks5h://127.0.0.1:1")
    assert "python-socks" in await refused(Client(server.url, token="T"))


async def test_the_iteration_ends_when_the_server_refuses_the_client(server: Scripted) -> None:
    async with Alice(server) as (client, peer):
        room = await in_room(client, peer)
        server.refusals = [401, 401]
        peer.connection.transport.abort()
        with pytest.raises(Closed, match="401"):
            await anext(room)


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


async def test_redis_killed_and_started_again_loses_and_doubles_nothing(start: Start, redis: RedisServer) -> None:
    worker = await start().ready()
    async with proxy(worker.port) as balancer, watching(balancer.url):
        redis.kill()
        await asyncio.sleep(0.5)
        redis.start()
