# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from support.auth import ORIGIN, SECRET, authenticator, bearer, good_claims, request
from support.redis_server import RedisServer

from wsserver.auth import Identity, Refused, TicketStore, issue_ticket, mint
from wsserver.errors import BrokerUnavailable
from wsserver.storage.memory.tickets import MemoryTickets
from wsserver.storage.redis.connection import COMMAND_TIMEOUT_S, RedisAddress
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
    guard, presented = authenticator(tickets), request(*headers, path=f"/ws?ticket={ticket}")
    identity = await guard.authenticate(presented)
    await guard.spend(presented)
    return identity


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
        taken = await asyncio.gather(*(tickets.take(ticket, f"client {n}") for n in range(50)))
        assert sum(taken) == 1


async def test_a_ticket_that_a_worker_looked_up_is_valid_until_it_is_spent(tickets: TicketStore) -> None:
    """The worker may answer 503 in between, and the edge presents the ticket to the next worker."""
    ticket = await issue_ticket(tickets, "alice")
    presented = request(path=f"/ws?ticket={ticket}")
    guards = [authenticator(tickets) for _ in range(2)]
    assert [(await guard.authenticate(presented)).user for guard in guards] == ["alice"] * 2
    await guards[0].spend(presented)
    with pytest.raises(Refused) as info:
        await guards[1].spend(presented)
    assert (info.value.status, info.value.outcome) == (401, "bad_ticket")


async def test_only_the_credential_that_counts_is_spent(tickets: TicketStore) -> None:
    ticket = await issue_ticket(tickets, "alice")
    await enter(tickets, ticket, bearer(mint(SECRET, "bob", 60)))
    assert (await enter(tickets, ticket)).user == "alice"


async def test_a_ticket_expires(tickets: TicketStore) -> None:
    ticket = await tickets.issue(b"{}", 1)
    await asyncio.sleep(1.2)
    assert await tickets.look_up(ticket) is None
    assert not await tickets.take(ticket, "a client")


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
    assert redis.client().exists(key) == 0
    # What stays for some seconds tells neither the ticket nor its grant.
    [key] = redis.client().keys()
    assert b"alice" not in redis.client().get(key)
    assert 0 < redis.client().ttl(key) <= 30


async def test_a_full_redis_still_takes_tickets(redis: RedisServer, redis_tickets: RedisTickets) -> None:
    ticket = await issue_ticket(redis_tickets, "alice")
    redis.client().config_set("maxmemory", 1)
    assert (await enter(redis_tickets, ticket)).user == "alice"


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not taken"])
async def test_redis_breaks_while_a_ticket_is_taken(
    redis: RedisServer, redis_tickets: RedisTickets, taken: bool
) -> None:
    """The worker asks again: a 503 would lead to the refusal of a used ticket by the next worker."""
    guard, presented = (
        authenticator(redis_tickets),
        request(path=f"/ws?ticket={await issue_ticket(redis_tickets, 'a')}"),
    )
    await guard.authenticate(presented)
    if taken:
        redis.signal(signal.SIGSTOP)  # Redis carries out the command later, and its answer is lost
    else:
        redis.kill()
    spending = asyncio.create_task(guard.spend(presented))
    await asyncio.sleep(COMMAND_TIMEOUT_S + 0.5 if taken else 0.5)
    assert not spending.done()
    if taken:
        redis.signal(signal.SIGCONT)
    else:
        redis.start()
    await asyncio.wait_for(spending, 20)
    with pytest.raises(Refused):
        await guard.authenticate(presented)


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
