# SPDX-License-Identifier: MIT
"""The acceptor of a worker on a real socket, with a state and stores that the test sets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from pydantic import SecretStr
from support.auth import SECRET, bearer
from support.services import make_services
from support.wait import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from wsserver.archive.history import History
from wsserver.auth import Authenticator, issue_ticket, mint
from wsserver.errors import BrokerBusy, BrokerUnavailable
from wsserver.limits.quotas import Quotas, Refusal, UserRates
from wsserver.limits.user_rate import UserRate
from wsserver.limits.user_total import UserTotal
from wsserver.protocol.types import Position
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.broker import Published
from wsserver.rooms.hub import Hub
from wsserver.runtime.pauses import Pauses
from wsserver.runtime.slices import Slices
from wsserver.settings import Settings
from wsserver.status import BrokerStatus
from wsserver.storage.memory.broker import MemoryBroker
from wsserver.storage.memory.counts import MemoryCounts
from wsserver.storage.memory.tickets import MemoryTickets
from wsserver.transport.acceptor import Acceptor
from wsserver.transport.registry import ConnectionRegistry


class ScriptedQuotas(Quotas):
    """`before`: called by each admission."""

    def __init__(self) -> None:
        super().__init__(
            MemoryCounts(), UserRates(*(UserRate(1e6, None) for _ in range(3))), 1000, 1000, UserTotal(1000, None)
        )
        self.before: Callable[[], None] = lambda: None
        self.admitted = 0

    async def admit(self, user: str, ip: str) -> Refusal | None:
        self.before()
        self.admitted += 1
        return None

    def released(self, user: str, ip: str) -> None:
        self.admitted -= 1


class Place:
    """One worker's acceptor. `why`: the reason to refuse new clients."""

    def __init__(self, tickets: MemoryTickets) -> None:
        settings = Settings(jwt_secret=SecretStr(SECRET))
        writer, broker = BatchWriter(), MemoryBroker(100)
        self.broker = broker
        self.quotas = ScriptedQuotas()
        self.context = make_services(Hub(broker, History(broker, None), writer), broker, writer)
        self.context.authenticator = Authenticator(settings, tickets)
        self.context.quotas = self.quotas
        self.why: str | None = None
        self.registry = ConnectionRegistry(10, 25, 30)
        self.acceptor = Acceptor(
            settings, self.context, self.registry, lambda: self.why, lambda: BrokerStatus(True), {}, Pauses()
        )
        self.port = 0

    def drain(self) -> None:
        self.why = "draining"

    async def open(self, path: str, *headers: tuple[str, str]) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.port}{path}"
        return await connect(url, additional_headers=headers, ping_interval=None, proxy=None)

    async def status(self, path: str, *headers: tuple[str, str]) -> int:
        """The status of a handshake for `/ws`, or of a request for `/events`."""
        if path.startswith("/ws"):
            try:
                connection = await self.open(path, *headers)
            except InvalidStatus as refused:
                return refused.response.status_code
            await connection.close()
            return 101
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"GET {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers)]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)
        writer.close()
        return int(answer.split()[1])


@pytest.fixture
def tickets() -> MemoryTickets:
    return MemoryTickets()


@pytest.fixture
async def places(tickets: MemoryTickets) -> AsyncIterator[list[Place]]:
    """Two workers with one store of tickets, as behind an edge."""
    places = [Place(tickets), Place(tickets)]
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(place.acceptor.connection, "127.0.0.1", 0) for place in places]
    for place, server in zip(places, servers, strict=True):
        place.port = server.sockets[0].getsockname()[1]
    yield places
    for server in servers:
        server.close()


def broken() -> None:
    raise BrokerUnavailable()


def interrupted() -> None:
    raise asyncio.CancelledError


PATHS = [("/ws?", 101), ("/events?room=r&", 200)]


@pytest.mark.parametrize(("path", "granted"), PATHS)
@pytest.mark.parametrize("trouble", ["draining", "quotas", "interruption"])
async def test_a_ticket_survives_the_503_of_one_worker(
    places: list[Place], tickets: MemoryTickets, path: str, granted: int, trouble: str
) -> None:
    first, second = places
    first.quotas.before = {"draining": first.drain, "quotas": broken, "interruption": interrupted}[trouble]
    path += f"ticket={await issue_ticket(tickets, 'alice')}"
    assert await first.status(path) == 503
    assert first.quotas.admitted == 0
    assert await second.status(path) == granted
    assert await second.status(path) == 401


@pytest.mark.parametrize(("path", "granted"), PATHS)
async def test_a_ticket_that_was_spent_opens_the_connection_whatever_happens_then(
    places: list[Place], tickets: MemoryTickets, path: str, granted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain, or the outage of Redis, begins while the ticket is taken, and the answer is lost."""
    place, take, taken = places[0], tickets.take, []

    async def lose_the_answer(ticket: str, taker: str) -> bool:
        taken.append(taker)
        if len(taken) == 1:
            assert await take(ticket, taker)
            place.drain()
            raise BrokerUnavailable()
        return taker == taken[0]

    monkeypatch.setattr(tickets, "take", lose_the_answer)
    assert await place.status(f"{path}ticket={await issue_ticket(tickets, 'alice')}") == granted
    assert len(taken) == 2


async def test_a_client_that_is_gone_when_its_ticket_is_spent_is_not_counted(
    places: list[Place], tickets: MemoryTickets, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, going_on, asked = places[0], asyncio.Event(), asyncio.Event()

    async def slow(ticket: str, taker: str) -> bool:
        asked.set()
        await going_on.wait()
        return True

    monkeypatch.setattr(tickets, "take", slow)
    opening = asyncio.create_task(place.open(f"/ws?ticket={await issue_ticket(tickets, 'alice')}"))
    await asked.wait()
    opening.cancel()
    await until(lambda: not place.registry.handshaking_count)
    going_on.set()
    await until(lambda: not place.quotas.admitted)
    assert place.registry.open_count == 0


async def test_a_forbidden_stream_does_not_spend_its_ticket(places: list[Place], tickets: MemoryTickets) -> None:
    ticket = await issue_ticket(tickets, "alice", ["mine"], [])
    assert await places[0].status(f"/events?room=r&ticket={ticket}") == 403
    assert places[0].quotas.admitted == 0
    assert await places[0].status(f"/events?room=mine&ticket={ticket}") == 200


async def test_a_stream_whose_join_fails_ends_with_closed(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    place = places[0]
    monkeypatch.setattr(place.broker, "head", broken_head)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    name, value = bearer(mint(SECRET, "alice", 60))
    writer.write(f"GET /events?room=r HTTP/1.1\r\nHost: x\r\n{name}: {value}\r\n\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), 20)).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 200 ")
    assert "event: error\n" in answer
    closed = '{"code":1013,"reason":"the room cannot be joined now"}'
    assert answer.endswith(f"event: closed\ndata: {closed}\n\n")
    assert not place.quotas._rooms._here, "the user is in no room"


async def test_a_publish_or_join_that_a_busy_broker_refuses_is_repeated_later(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy_head(room: str) -> Position:
        raise BrokerBusy

    def busy_publish(*_arguments: object) -> asyncio.Future[Published]:
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        future.set_exception(BrokerBusy())
        return future

    monkeypatch.setattr(places[0].broker, "head", busy_head)
    monkeypatch.setattr(places[0].broker, "publish", busy_publish)
    connection = await places[0].open("/ws", bearer(mint(SECRET, "alice", 60)))
    await connection.send('{"type":"publish","room":"r","id":"1","data":1}')
    await connection.send('{"type":"join","room":"r"}')
    errors = [json.loads(await asyncio.wait_for(connection.recv(), 20)) for _ in range(3)][1:]
    assert [(error["code"], error["retry_after_ms"]) for error in errors] == [("rate_limited", 1000)] * 2
    assert {error.get("id") for error in errors} == {"1", None}
    await connection.close()


async def broken_head(room: str) -> Position:
    raise BrokerUnavailable()


async def test_tokens_take_no_ticket(places: list[Place], tickets: MemoryTickets) -> None:
    ticket = await issue_ticket(tickets, "alice")
    token: Any = bearer(mint(SECRET, "bob", 60))
    assert await places[0].status(f"/ws?ticket={ticket}", token) == 101
    assert await places[1].status(f"/ws?ticket={ticket}") == 101


async def test_many_ends_take_several_turns(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of clients may end at once; the event loop serves the others in between."""
    place, _ = places
    clients = [await place.open("/ws", bearer(mint(SECRET, "alice", 600))) for _ in range(150)]
    for client in clients:
        await client.send(json.dumps({"type": "join", "room": "r"}))
        while json.loads(await client.recv())["type"] != "joined":
            pass
    left: list[object] = []
    monkeypatch.setattr(place.context.hub, "leave", lambda member, _room: left.append(member))
    turns = [0]
    place.registry.drop_all()
    while turns[-1] < len(clients):
        await asyncio.sleep(0)
        turns.append(len(left))
    assert max(after - before for before, after in pairwise(turns)) <= 100
    assert not place.context.quotas.join("alice"), "the rooms count no longer"


async def test_joins_at_once_keep_to_the_limit_of_their_user(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = places
    waiting, go_on = 0, asyncio.Event()

    async def query(_user: str) -> None:
        nonlocal waiting
        waiting += 1
        await go_on.wait()

    monkeypatch.setattr(place.quotas, "query", query)
    place.quotas._rooms.most = 3
    clients = [await place.open("/ws", bearer(mint(SECRET, "alice", 600))) for _ in range(10)]
    for number, client in enumerate(clients):
        assert json.loads(await client.recv())["type"] == "welcome"
        await client.send(json.dumps({"type": "join", "room": f"r{number}"}))
    await until(lambda: waiting == len(clients))
    go_on.set()
    answers = [json.loads(await client.recv()) for client in clients]
    assert Counter(answer.get("code", answer["type"]) for answer in answers) == {"joined": 3, "rate_limited": 7}


async def test_publishes_before_a_close_are_carried_out(places: list[Place]) -> None:
    """They have waited for their turn, which never comes here."""
    place, _ = places
    place.context.commands = Slices(0)
    client = await place.open("/ws", bearer(mint(SECRET, "alice", 600)))
    for number in range(3):
        await client.send(json.dumps({"type": "publish", "room": "r", "data": number, "id": str(number)}))
    await client.close()
    messages = await place.broker.read("r", Position(0, 0), 10)
    assert [message.data for message in messages] == [b"0", b"1", b"2"]
