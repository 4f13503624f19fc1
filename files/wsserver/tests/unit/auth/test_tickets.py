# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from support.auth import ORIGIN, authenticator, good_claims, request
from support.redis_server import RedisServer

from wsserver.auth import Identity, Refused, TicketStore, issue_ticket
from wsserver.errors import BrokerUnavailable
from wsserver.storage.memory.tickets import MemoryTickets
from wsserver.storage.redis.connection import RedisAddress
from wsserver.storage.redis.tickets import RedisTickets


@pytest.fixture
async def redis_tickets(redis: RedisServer) -> AsyncIterator[RedisTickets]:
    store = RedisTickets(RedisAddress(redis.url))
    yield store
    await store.close()


@pytest.fixture(params=["redis", "memory"])
def tickets(request: pytest.FixtureRequest) -> TicketStore:
    store: TicketStore = MemoryTickets() if request.param == "memory" else request.getfixturevalue("redis_tickets")
    return store


async def enter(tickets: TicketStore, ticket: str, *headers: tuple[str, str]) -> Identity:
    return await authenticator(tickets).authenticate(request(*headers, path=f"/ws?ticket={ticket}"))


async def refusal(tickets: TicketStore, ticket: str) -> Refused:
    with pytest.raises(Refused) as info:
        await enter(tickets, ticket)
    assert ticket not in str(info.value)
    return info.value


async def test_a_ticket_grants_the_same_as_a_token(tickets: TicketStore) -> None:
    ticket = await issue_ticket(tickets, "alice", ["team:*"], ["user:{sub}"], 120)
    identity = await enter(tickets, ticket)
    assert identity[:1] + identity[2:] == ("alice", ("team:*",), ("user:{sub}",))
    assert abs(identity.expires - time.time() - 120) < 30


async def test_the_settings_complete_a_ticket(tickets: TicketStore) -> None:
    ticket = await issue_ticket(tickets, "alice")
    guard = authenticator(tickets, default_join=("lobby",), default_publish=())
    identity = await guard.authenticate(request(path=f"/events?room=lobby&ticket={ticket}"))
    assert (identity.join, identity.publish) == (("lobby",), ())
    assert abs(identity.expires - time.time() - 3600) < 30


async def test_a_ticket_is_used_once(tickets: TicketStore) -> None:
    ticket = await issue_ticket(tickets, "alice")
    await enter(tickets, ticket, ("Origin", ORIGIN))
    refused = await refusal(tickets, ticket)
    assert (refused.status, refused.outcome) == (401, "bad_ticket")


async def test_of_many_simultaneous_uses_of_a_ticket_one_succeeds(tickets: TicketStore) -> None:
    for _ in range(5):
        ticket = await issue_ticket(tickets, "alice")
        grants = await asyncio.gather(*(tickets.take(ticket) for _ in range(50)))
        assert sum(grant is not None for grant in grants) == 1


async def test_a_ticket_expires(tickets: TicketStore) -> None:
    ticket = await tickets.issue(b"{}", 1)
    await asyncio.sleep(1.2)
    assert await tickets.take(ticket) is None


async def test_a_foreign_page_is_refused_and_does_not_spend_the_ticket(tickets: TicketStore) -> None:
    ticket = await issue_ticket(tickets, "alice")
    with pytest.raises(Refused) as info:
        await enter(tickets, ticket, ("Origin", "https://evil.example"))
    assert info.value.status == 403
    assert (await enter(tickets, ticket)).user == "alice"


@pytest.mark.parametrize("ticket", ["x", "x" * 7000, "*", "%00", "%ff", "a b", "%F0%9F%8E%AB"])
async def test_invalid_tickets(tickets: TicketStore, ticket: str) -> None:
    await issue_ticket(tickets, "alice")
    assert (await refusal(tickets, ticket)).outcome == "bad_ticket"


async def test_a_ticket_grants_no_more_than_a_token_could(tickets: TicketStore) -> None:
    for user, join in (("", None), ("\n", None), ("alice", ["x" * 129])):
        with pytest.raises(ValueError, match="must"):
            await issue_ticket(tickets, user, join)
    for grant in (b"", b"7", b'{"sub":"alice"}', msgspec.json.encode(good_claims(join="*"))):
        assert (await refusal(tickets, await tickets.issue(grant, 30))).outcome == "bad_ticket"


async def test_tickets_cannot_be_guessed(tickets: TicketStore) -> None:
    issued = [await issue_ticket(tickets, "alice") for _ in range(20)]
    assert len(set(issued)) == 20
    assert all(len(ticket) >= 43 for ticket in issued)  # 256 bits


async def test_redis_has_only_digests_and_they_expire(redis: RedisServer, redis_tickets: RedisTickets) -> None:
    ticket = await issue_ticket(redis_tickets, "alice")
    [key] = redis.client().keys()
    assert key.startswith(b"ws:1:{")
    assert ticket.encode() not in key + redis.client().get(key)
    assert 0 < redis.client().ttl(key) <= 30
    assert (await enter(redis_tickets, ticket)).user == "alice"
    assert redis.client().dbsize() == 0


async def test_an_unavailable_redis_does_not_refuse_the_ticket(redis: RedisServer, redis_tickets: RedisTickets) -> None:
    ticket = await issue_ticket(redis_tickets, "alice")
    redis.kill()
    with pytest.raises(BrokerUnavailable):
        await enter(redis_tickets, ticket)
    with pytest.raises(BrokerUnavailable):
        await issue_ticket(redis_tickets, "alice")
    redis.start()
    assert (await enter(redis_tickets, ticket)).user == "alice"


async def test_unused_tickets_expire() -> None:
    memory = MemoryTickets()
    for _ in range(10):
        await memory.issue(b"{}", 0)
    await memory.issue(b"{}", 30)
    assert len(memory._grants) == 1
