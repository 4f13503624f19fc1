# SPDX-License-Identifier: MIT
"""Every limit of a real worker: at the limit, and just below."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from support.redis_server import RedisServer
from support.wait import until
from support.worker import SECRET, Client, Worker
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

Start = Callable[..., Worker]
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


async def refused(connecting: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as info:
        await connecting
    return info.value.response.status_code, (info.value.response.body or b"").decode()


async def limited(worker: Worker, limit: str) -> float:
    return (await worker.metrics()).get(f'ws_limited_total{{limit="{limit}"}}', 0)


async def test_connections_of_a_worker(start: Start) -> None:
    worker = await start(WS_MAX_CONNECTIONS="3").ready()
    clients = [await worker.client(f"user{n}") for n in range(3)]
    status, body = await refused(worker.connect("one-more"))
    assert status == 429
    assert "this worker has too many connections" in body
    assert await limited(worker, "connections") == 1
    assert (await worker.metrics())["ws_max_connections"] == 3
    await clients[0].connection.close()
    await until_let_in(worker, "one-more")


async def test_connections_of_a_user_over_all_workers(start: Start) -> None:
    workers = [await start(WS_MAX_CONNECTIONS_PER_USER="4").ready() for _ in range(2)]
    clients = [await workers[n % 2].client("alice") for n in range(4)]
    for worker in workers:
        status, body = await refused(worker.connect("alice"))
        assert status == 429
        assert "this user" in body
        assert await limited(worker, "user_connections") == 1
    await workers[0].client("bob")
    await clients[1].connection.close()
    await until_let_in(workers[0], "alice")


async def test_connections_of_an_address_over_all_workers(start: Start) -> None:
    workers = [await start(WS_MAX_CONNECTIONS_PER_IP="4").ready() for _ in range(2)]
    clients = [await workers[n % 2].client(f"user{n}") for n in range(4)]
    status, body = await refused(workers[1].connect("carol"))
    assert status == 429
    assert "this address" in body
    assert await limited(workers[1], "ip_connections") == 1
    elsewhere = {"X-Real-IP": "192.0.2.7", "Authorization": f"Bearer {token('carol')}"}
    await workers[1].connect("carol", additional_headers=elsewhere)
    await clients[0].connection.close()
    await until_let_in(workers[1], "dave")


async def until_let_in(worker: Worker, user: str) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(InvalidStatus):
                await worker.client(user)
                return
            await asyncio.sleep(0.05)


async def test_rooms_of_a_connection(start: Start) -> None:
    worker = await start(WS_MAX_ROOMS_PER_CONNECTION="3").ready()
    client = await worker.client()
    for n in range(3):
        await client.join(f"r{n}")
    await client.join("r0")  # again
    await client.send(type="join", room="r3")
    error = await client.event("error")
    assert (error["code"], error["room"]) == ("too_many_rooms", "r3")
    assert await limited(worker, "rooms") == 1
    await client.send(type="leave", room="r0")
    await client.event("left")
    await client.join("r3")


async def test_rooms_of_a_user_over_all_workers(start: Start) -> None:
    """Each worker learns within two seconds what the user has elsewhere."""
    workers = [await start(WS_MAX_ROOMS_PER_USER="20").ready() for _ in range(2)]
    clients = [await worker.client("alice") for worker in workers]
    for n in range(18):
        await clients[0].join(f"r{n}")
    for n in range(2):  # the same rooms, on another connection
        await clients[1].join(f"r{n}")

    async def refused() -> bool:
        await clients[1].send(type="join", room="another")
        event = await clients[1].next()
        if event["type"] == "joined":
            await clients[1].send(type="leave", room="another")
            await clients[1].event("left")
            return False
        assert (event["code"], event["room"], event["retry_after_ms"]) == ("rate_limited", "another", 1000)
        return True

    async def until_refused(wanted: bool) -> None:
        for _attempt in range(300):
            if await refused() == wanted:
                return
            await asyncio.sleep(0.1)
        pytest.fail("the limit is not known")

    await until_refused(True)
    assert await limited(workers[1], "user_rooms") == 1
    await clients[1].join("r0")  # again
    await (await workers[1].client("bob")).join("another")
    for n in range(10):
        await clients[0].send(type="leave", room=f"r{n}")
        await clients[0].event("left")
    await until_refused(False)
    await clients[0].connection.close()
    await asyncio.sleep(3)  # a report counts for so long
    for n in range(18):
        await clients[1].join(f"s{n}")
    await until_refused(True)


async def test_frames_of_a_connection_are_slowed_down_and_none_is_lost(start: Start) -> None:
    worker = await start(WS_MESSAGES_PER_S="10").ready()
    client = await worker.client()
    for n in range(19):
        await client.send(type="ping", t=n)
    for n in range(19):
        assert (await client.event("pong"))["t"] == n
    assert await limited(worker, "connection_frames") == 0
    begin = time.monotonic()
    await send_pings(client, 40)
    pongs: list[int] = []
    while len(pongs) < 40:
        event = await client.next()
        if event["type"] == "pong":
            pongs.append(event["t"])
        else:
            assert event["code"] == "rate_limited"
            assert event["retry_after_ms"] > 0
    assert pongs == list(range(40))
    await send_pings(client, 1)  # the excess is paid for first
    while (await client.next())["type"] != "pong":
        pass
    assert time.monotonic() - begin > 1.5
    assert await limited(worker, "connection_frames") >= 1
    bystander = await worker.client("bob")
    await send_pings(bystander, 1)
    await bystander.event("pong")


async def send_pings(client: Client, count: int) -> None:
    for n in range(count):
        await client.send(type="ping", t=n)


async def test_bytes_of_a_connection(start: Start) -> None:
    worker = await start(WS_BYTES_PER_S="10000").ready()
    client = await worker.client()
    await client.publish("x" * 19000, "1")
    assert (await client.next())["type"] == "ack"
    await client.publish("x" * 19000, "2")
    # The worker reads the message in parts, and may exceed the limit with more than one of them.
    errors = 0
    while (event := await client.next())["type"] != "ack":
        assert event["code"] == "rate_limited"
        errors += 1
    assert errors >= 1
    assert await limited(worker, "connection_bytes") == errors


async def test_size_of_a_message(start: Start) -> None:
    worker = await start(WS_MAX_MESSAGE_BYTES="2048").ready()
    client = await worker.client()
    overhead = len('{"type": "publish", "room": "r", "data": "", "id": "1"}')
    await client.publish("x" * (2048 - overhead), "1")
    assert (await client.next())["type"] == "ack"
    await client.publish("x" * (2049 - overhead), "2")
    assert (await client.closed())[0] == 1009


async def test_publishes_of_a_user_over_connections(start: Start) -> None:
    worker = await start(WS_USER_MESSAGES_PER_S="10").ready()
    clients = [await worker.client("alice") for _ in range(3)]
    for n in range(20):
        await clients[n % 3].publish(n, str(n))
    answers = [await clients[n % 3].next() for n in range(20)]
    assert {answer["type"] for answer in answers} == {"ack"}
    for n in range(20, 40):
        await clients[n % 3].publish(n, str(n))
    answers = [await clients[n % 3].next() for n in range(20, 40)]
    errors = [answer for answer in answers if answer["type"] == "error"]
    assert errors
    assert {(error["code"], error["retry_after_ms"]) for error in errors} == {("rate_limited", 1000)}
    assert int(errors[0]["id"]) >= 20
    assert await limited(worker, "user_messages") == len(errors)
    bob = await worker.client("bob")
    await bob.publish(0, "0")
    await bob.acks(1)


async def test_bytes_of_a_user_over_all_workers(start: Start) -> None:
    workers = [await start(WS_USER_BYTES_PER_S="20000").ready() for _ in range(2)]
    clients = [await worker.client("alice") for worker in workers]
    accepted = 0
    begin = time.monotonic()
    for n in range(200):
        await clients[n % 2].publish("x" * 2000, str(n))
        answer = await clients[n % 2].next()
        if answer["type"] == "error":
            assert (answer["code"], answer["id"], answer["retry_after_ms"]) == ("rate_limited", str(n), 1000)
            await asyncio.sleep(0.02)
        else:
            accepted += 2000
    elapsed = time.monotonic() - begin
    # A burst of twice the rate on each worker, then the rate of the user, and a report's delay.
    assert accepted < 2 * 2 * 20_000 + (elapsed + 2) * 2 * 20_000
    assert await limited(workers[0], "user_bytes") > 0
    bob = await workers[0].client("bob")
    await bob.publish("x" * 2000, "0")
    await bob.acks(1)


async def test_queries_of_a_user_wait_and_others_go_on(start: Start) -> None:
    worker = await start(WS_USER_QUERIES_PER_S="5").ready()
    alice = [await worker.client("alice") for _ in range(3)]
    begin = time.monotonic()
    for client in alice:
        for _ in range(8):
            await client.send(type="history", room="r")
    bob = await worker.client("bob")
    await bob.send(type="history", room="r")
    await bob.event("history")
    for client in alice:
        for _ in range(8):
            await client.event("history")
    assert time.monotonic() - begin > 1.5
    assert await limited(worker, "user_queries") > 0


async def test_refused_requests_of_an_address(start: Start) -> None:
    worker = await start(WS_IP_REFUSALS_PER_S="5").ready()
    statuses = Counter[int]()
    for _ in range(60):
        status, _answer = await worker.http("/ws", "X-Real-IP: 192.0.2.9", "Authorization: Bearer wrong", *UPGRADE)
        statuses[status] += 1
    assert statuses.keys() == {401, 429}
    assert statuses[401] < 50
    assert len(worker.log("refused")) == statuses[401]
    assert await limited(worker, "ip_refusals") == statuses[429]
    await until(lambda: worker.log("refused_unchecked"))
    summary = worker.log("refused_unchecked")[0]
    assert summary["most_from"] == "192.0.2.9"
    await worker.client("bob")  # from another address
    headers = {"X-Real-IP": "192.0.2.9", "Authorization": f"Bearer {token('alice')}"}
    async with asyncio.timeout(30):
        while True:  # the rate has passed
            with contextlib.suppress(InvalidStatus):
                await worker.connect("alice", additional_headers=headers)
                break
            await asyncio.sleep(0.1)


async def test_a_request_that_comes_too_slowly(start: Start) -> None:
    worker = await start(WS_HANDSHAKE_S="1").ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert await limited(worker, "handshake") == 1


async def test_one_user_cannot_fill_redis_for_the_others(start: Start, redis: RedisServer) -> None:
    redis.client().config_set("maxmemory", 24 * 2**20)
    worker = await start(WS_USER_BYTES_PER_S="1048576", WS_ROOM_LOG_BYTES="4194304").ready()
    hostile = [await worker.client("mallory") for _ in range(8)]
    other = await worker.client("bob")
    answers = Counter[str]()

    async def flood(client: Client, n: int) -> None:
        for k in range(150):
            await client.publish("x" * 50_000, str(k), room=f"fresh-{n}-{k % 20}")
            event = await client.next()
            answers[event.get("code", event["type"])] += 1

    async def chat() -> None:
        for k in range(100):
            await other.publish("hello", str(k))
            assert (await other.next())["type"] == "ack"
            await asyncio.sleep(0.05)

    flooding = [asyncio.create_task(flood(client, n)) for n, client in enumerate(hostile)]
    await chat()
    await asyncio.gather(*flooding)
    assert answers["rate_limited"] > 0
    assert answers["broker_full"] == 0
    status, body = await worker.http("/readyz")
    assert status == 200
    fullness = (await worker.metrics())["ws_broker_memory_ratio"]
    assert ("full" in body) == (fullness >= 0.8)


async def test_a_nearly_full_broker_shows(start: Start, redis: RedisServer) -> None:
    worker = await start().ready()
    redis.client().set("ballast", b"x" * (20 * 2**20))
    redis.client().config_set("maxmemory", 24 * 2**20)
    await until(lambda: worker.log("broker_nearly_full"))
    status, body = await worker.http("/readyz")
    assert status == 200
    assert "memory is" in body
    redis.client().delete("ballast")
    await until(lambda: worker.log("broker_has_room"))
    assert (await worker.http("/readyz"))[1].endswith("ready\n")


# Tokens.


def token(user: str, ttl_s: float = 600, **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + ttl_s, **claims}, SECRET, "HS256")


async def client_with(worker: Worker, some_token: str) -> Client:
    headers = {"Authorization": f"Bearer {some_token}"}
    client = Client(await connect(f"ws://127.0.0.1:{worker.port}/ws", additional_headers=headers, proxy=None))
    await client.event("welcome")
    return client


async def test_rooms_that_a_token_permits(start: Start) -> None:
    worker = await start(WS_DEFAULT_JOIN="lobby,user:{sub}:*", WS_DEFAULT_PUBLISH="").ready()
    claimed = await client_with(worker, token("alice", join=["team:*"], publish=["team:a"]))
    await claimed.join("team:a")
    await claimed.publish(1, "1", room="team:a")
    assert await claimed.messages(1) == [1]
    for command in (
        {"type": "join", "room": "lobby"},
        {"type": "presence", "room": "lobby"},
        {"type": "history", "room": "lobby"},
        {"type": "publish", "room": "team:b", "data": 1, "id": "2"},
    ):
        await claimed.send(**command)
        while (event := await claimed.next())["type"] == "ack":
            pass
        assert (event["type"], event["code"]) == ("error", "forbidden"), command
        assert event.get("room", event.get("id")) in ("lobby", "2")
    default = await client_with(worker, token("bob"))
    await default.join("lobby")
    await default.join("user:bob:inbox")
    await default.send(type="join", room="user:alice:inbox")
    assert (await default.event("error"))["code"] == "forbidden"
    await default.publish(1, "1", room="lobby")
    assert (await default.event("error"))["code"] == "forbidden"


async def test_a_token_that_expires_during_the_connection(start: Start) -> None:
    worker = await start(WS_HEARTBEAT_S="1").ready()
    client = await client_with(worker, token("alice", 4))
    expiring = await client.event("expiring")
    assert expiring["expires"] == pytest.approx(time.time() + 4, abs=30)
    assert await client.closed() == (1008, "token expired")


async def test_a_fresh_token_keeps_the_connection(start: Start) -> None:
    worker = await start(WS_HEARTBEAT_S="1").ready()
    client = await client_with(worker, token("alice", 6, join=["a", "b"]))
    await client.join("a")
    await client.join("b")
    await client.event("expiring")
    await client.send(type="auth", token=token("bob"))
    assert (await client.event("error"))["code"] == "not_authenticated"
    await client.send(type="auth", token=token("alice", 600, join=["a"]))
    assert (await client.event("auth"))["expires"] > time.time() + 500
    # The client leaves the rooms that the new token does not permit.
    left = await client.event("error")
    assert (left["code"], left["room"]) == ("forbidden", "b")
    await asyncio.sleep(8)
    await client.send(type="ping")
    await client.event("pong")
    assert token("alice")[:20] not in worker.output()


async def test_an_old_connection_is_asked_to_reconnect(start: Start) -> None:
    worker = await start(WS_HEARTBEAT_S="1", WS_MAX_CONNECTION_AGE_S="10").ready()
    client = await worker.client()
    begin = time.monotonic()
    hint = await asyncio.wait_for(client.connection.recv(), 90)
    assert '"reconnect"' in str(hint)
    assert time.monotonic() - begin > 8
    assert (await client.closed())[0] == 1001
