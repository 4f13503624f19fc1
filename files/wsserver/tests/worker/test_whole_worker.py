# SPDX-License-Identifier: MIT
"""Complete workers: with Redis, Postgres, the server API and the control socket, as in a fleet."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.ports import free_port
from support.postgres import Cluster
from support.worker import Worker, ws_server

Start = Callable[..., Worker]

KEY = "a key of the server API, long enough"


class WholeWorker:
    def __init__(self, start: Start, dsn: str, directory: Path) -> None:
        self.api = f"http://127.0.0.1:{(port := free_port())}"
        self.socket = directory / f"{port}.sock"
        self.worker = start(
            WS_POSTGRES_DSN=dsn,
            WS_API_KEY=KEY,
            WS_API_PORT=str(port),
            WS_CONTROL_SOCKET=str(self.socket),
            WS_DURABLE_ROOMS="orders:*",
        )

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {KEY}", **headers}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, self.api + path, json=body) as answer,
        ):
            return answer.status, await answer.json()

    async def ctl(self, *arguments: str) -> tuple[int, Any]:
        done = await asyncio.to_thread(ws_server, "ctl", *arguments, "--socket", str(self.socket), "--json")
        return done.returncode, json.loads(done.stdout or "null")


@pytest.fixture
async def two(start: Start, dsn: str) -> AsyncIterator[tuple[WholeWorker, WholeWorker]]:
    with tempfile.TemporaryDirectory(prefix="ws-control-") as directory:
        workers = WholeWorker(start, dsn, Path(directory)), WholeWorker(start, dsn, Path(directory))
        for worker in workers:
            await worker.worker.ready()
        yield workers


async def test_the_server_api_reaches_clients_of_every_worker(two: tuple[WholeWorker, WholeWorker]) -> None:
    first, second = two
    alice = await second.worker.client("alice")
    joined = await alice.join("news")
    body = {"room": "news", "data": {"n": 1}, "from": "editor"}
    status, landed = await first.call("POST", "/v1/publish", body, **{"Idempotency-Key": "k1"})
    assert (status, landed["repeat"]) == (200, False)
    status, again = await second.call("POST", "/v1/publish", body, **{"Idempotency-Key": "k1"})
    assert (status, again["repeat"], again["seq"]) == (200, True, landed["seq"])
    message = await alice.event("message")
    assert (message["data"], message["from"], message["seq"]) == ({"n": 1}, "editor", joined["seq"] + 1)
    status, presence = await first.call("GET", "/v1/rooms/news/presence")
    while not presence["members"]:  # Redis has the change within a tenth of a second
        status, presence = await first.call("GET", "/v1/rooms/news/presence")
    assert presence == {"members": [{"user": "alice", "connections": 1}], "count": 1, "more": False}
    status, history = await first.call("GET", "/v1/rooms/news/history")
    assert [message["data"] for message in history["messages"]] == [{"n": 1}]
    status, _ = await first.call("POST", "/v1/users/alice/disconnect", {"reason": "banned"})
    assert status == 202
    assert await alice.closed() == (1008, "banned")
    assert KEY not in first.worker.output() + second.worker.output()


async def test_a_ticket_admits_once(two: tuple[WholeWorker, WholeWorker]) -> None:
    first, second = two
    status, answer = await first.call("POST", "/v1/tickets", {"user": "carol", "join": ["lobby"]})
    assert status == 200
    url = f"/ws?ticket={answer['ticket']}"
    client = await second.worker.client("carol", path=url, additional_headers={})
    await client.join("lobby")
    await client.send(type="join", room="elsewhere")
    assert (await client.event("error"))["code"] == "forbidden"
    assert (await first.worker.http(url, *upgrade_headers()))[0] == 401
    assert answer["ticket"] not in first.worker.output() + second.worker.output()


def upgrade_headers() -> list[str]:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    return [f"{name}: {value}" for name, value in headers.items()] + ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]


async def test_presence_and_members_over_two_workers(two: tuple[WholeWorker, WholeWorker]) -> None:
    first, _second = two
    watcher = await first.worker.client("watcher")
    await watcher.send(type="join", room="r", members=True)
    await watcher.event("joined")
    assert await watcher.event("member") == {"type": "member", "room": "r", "user": "watcher", "event": "join"}
    bobs = [await worker.worker.client("bob") for worker in two]
    for bob in bobs:
        await bob.join("r")
    assert (await watcher.event("member"))["user"] == "bob"
    await watcher.send(type="presence", room="r", limit=1)
    page = await watcher.event("presence")
    assert (page["count"], page["more"], page["members"][0]["user"]) == (2, True, "bob")
    await bobs[0].send(type="leave", room="r")
    await bobs[0].event("left")
    await bobs[1].send(type="leave", room="r")
    await bobs[1].event("left")
    assert (await watcher.event("member")) == {"type": "member", "room": "r", "user": "bob", "event": "leave"}
    # A connection that is cut and comes back on the other worker causes no event.
    await bobs[1].join("r")
    assert (await watcher.event("member"))["event"] == "join"
    bobs[1].connection.transport.abort()
    again = await first.worker.client("bob")
    await again.join("r")
    await asyncio.sleep(6)
    await watcher.send(type="ping")
    await watcher.event("pong")


async def test_durable_rooms_and_history(two: tuple[WholeWorker, WholeWorker], cluster: Cluster) -> None:
    first, second = two
    client = await first.worker.client("alice")
    for n in range(30):
        await client.publish(n, str(n), room="orders:1")
    assert sorted(map(int, await client.acks(30))) == list(range(30))
    reader = await second.worker.client("bob")
    await reader.send(type="history", room="orders:1", limit=10)
    page = await reader.event("history")
    assert [message["data"] for message in page["messages"]] == list(range(20, 30))
    assert page["more"] is True
    oldest = page["messages"][0]
    before = {"epoch": oldest["epoch"], "seq": oldest["seq"]}
    await reader.send(type="history", room="orders:1", before=before, limit=100)
    page = await reader.event("history")
    assert ([message["data"] for message in page["messages"]], page["more"]) == (list(range(20)), False)
    cluster.stop()
    try:
        await client.publish("late", "late", room="orders:1")
        error = await client.event("error")
        assert (error["code"], error["id"]) == ("not_archived", "late")
        await client.publish("plain", "plain", room="chat")
        assert await client.acks(1) == ["plain"]
    finally:
        cluster.start()
    async with asyncio.timeout(30):
        while True:
            await client.publish("late", "late", room="orders:1")
            if (await client.next())["type"] == "ack":
                break
            await asyncio.sleep(0.2)
    await reader.send(type="history", room="orders:1", limit=5)
    page = await reader.event("history")
    assert [message["data"] for message in page["messages"]] == [26, 27, 28, 29, "late"]


async def test_the_operator_drains_and_undrains_a_running_worker(
    two: tuple[WholeWorker, WholeWorker],
) -> None:
    first, _ = two
    client = await first.worker.client("alice")
    code, status = await first.ctl("status")
    assert code == 0
    assert [(one["state"], one["connections"]) for one in status] == [("ready", 1)]
    code, _ = await first.ctl("drain", "--by", "me", "--window", "0")
    assert code == 0
    assert (await client.event("reconnect"))["after_ms"] >= 0
    assert (await client.closed())[0] == 1001
    assert (await first.worker.http("/readyz"))[0] == 503
    assert (await first.worker.metrics())["ws_draining"] == 1
    # A backend can publish through a drained worker.
    assert (await first.call("POST", "/v1/publish", {"room": "r", "data": 1}))[0] == 200
    code, _ = await first.ctl("undrain", "--by", "another")
    assert code != 0
    code, _ = await first.ctl("undrain", "--by", "me")
    assert code == 0
    assert (await first.worker.metrics())["ws_draining"] == 0
    again = await first.worker.client("alice")
    code, _ = await first.ctl("kick", "--user", "alice", "--reason", "enough")
    assert code == 0
    assert await again.closed() == (1008, "enough")


async def test_ctl_top_shows_the_rates_of_a_worker(two: tuple[WholeWorker, WholeWorker]) -> None:
    first, _ = two
    client = await first.worker.client("alice")
    await client.join("r")
    command = ("ctl", "top", "--once", "--interval", "1", "--socket", str(first.socket))
    looking = asyncio.create_task(asyncio.to_thread(ws_server, *command, COLUMNS="200"))
    sent = 0
    while not looking.done():
        sent += 1
        await client.publish(sent, str(sent))
        await asyncio.sleep(0.02)
    shown = looking.result()
    assert (shown.returncode, shown.stderr) == (0, "")
    _, _, head, row = shown.stdout.splitlines()
    cells = dict(zip(head.split(), row.split(), strict=True))
    assert (cells["STATE"], cells["CONNS"], cells["ROOMS"], cells["DROPS"]) == ("ready", "1", "1", "0")
    assert 1 < float(cells["IN/S"]) <= 60
    assert 1 < float(cells["OUT/S"]) <= 60
    assert all(re.fullmatch(r">?[0-9.]+m?s", cells[name]) for name in ("P50", "P99", "REDIS"))
    assert re.fullmatch("ok|[0-9.]+m?s", cells["ARCHIVE"])
    assert cells["PID"] == str(first.worker.process.pid)
    assert await client.messages(sent) == list(range(1, sent + 1))
    _, [status] = await first.ctl("status")
    samples = await first.worker.metrics()
    assert status["counters"]["messages_in"] == samples["ws_messages_in_total"] == sent + 1
    assert status["counters"]["messages_out"] == samples["ws_messages_out_total"] == sent
    delivered = status["counters"]["publish_to_deliver"]
    assert delivered["counts"][-1] == samples["ws_publish_to_deliver_seconds_count"] == sent
    assert delivered["sum"] == pytest.approx(samples["ws_publish_to_deliver_seconds_sum"])
    assert "counters" not in (await first.call("GET", "/v1/stats"))[1], "only users of the host may read them"
