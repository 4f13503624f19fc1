# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Clients on a healthy fleet, and refused clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
import uuid

import pytest
from clients import connection, join, progress, receive, send, watching
from fleet import Fleet
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus


async def test_two_workers_converse_both_ways_in_order(fleet: Fleet) -> None:
    start = time.time()
    room = uuid.uuid4().hex
    async with contextlib.AsyncExitStack() as stack:
        # least_conn spreads idle clients over the workers. The log shows each client's worker.
        count = sum(len(fleet.instances(host)) for host in fleet.worker_hosts)
        users = [f"{room}-{n}" for n in range(2 * count)]
        clients = {user: await stack.enter_async_context(connection(fleet, user)) for user in users}
        workers = {
            line["user"]: line["instance"] for line in fleet.journal("connect", start) if line["user"] in clients
        }
        assert len(set(workers.values())) == count, "the edge does not use every worker"
        here = clients[f"{room}-0"]
        other = next(user for user, instance in workers.items() if instance != workers[f"{room}-0"])
        there = clients[other]
        for client in (here, there):
            await join(client, room)
        for n in range(200):
            await send(here, type="publish", room=room, data=["here", n], id=f"here-{n}")
            await send(there, type="publish", room=room, data=["there", n], id=f"there-{n}")
        seen = []
        for client in (here, there):
            messages = [await receive(client, "message") for _ in range(400)]
            assert [message["seq"] for message in messages] == list(range(1, 401))
            for side, user in (("here", f"{room}-0"), ("there", other)):
                mine = [message for message in messages if message["data"][0] == side]
                assert [message["data"][1] for message in mine] == list(range(200))
                assert {message["from"] for message in mine} == {user}
            seen.append(messages)
        assert seen[0] == seen[1]


async def test_the_operators_token(fleet: Fleet) -> None:
    token = fleet.ssh(fleet.worker_host, "ws-server token carol").strip()
    async with connect(
        fleet.url, ssl=fleet.trust, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
    ) as client:
        assert json.loads(await client.recv())["user"] == "carol"


async def test_resume_on_another_connection(fleet: Fleet) -> None:
    room = uuid.uuid4().hex
    async with connection(fleet, "alice") as alice:
        joined = await join(alice, room)
        for n in range(20):
            await send(alice, type="publish", room=room, data=n, id=str(n))
            await receive(alice, "ack")
    async with connection(fleet, "alice") as again:
        joined = await join(again, room, since={"epoch": joined["epoch"], "seq": 5})
        assert joined["recovered"]
        assert [(await receive(again, "message"))["data"] for _ in range(15)] == list(range(5, 20))


async def test_a_repeated_publish_is_acknowledged_and_not_duplicated(fleet: Fleet) -> None:
    room = uuid.uuid4().hex
    async with connection(fleet, "alice") as first:
        await send(first, type="publish", room=room, data=1, id="once")
        ack = await receive(first, "ack")
    async with connection(fleet, "alice") as second, connection(fleet, "bob") as bob:
        await join(bob, room)
        await send(second, type="publish", room=room, data=1, id="once")
        assert await receive(second, "ack") == ack
        await send(second, type="publish", room=room, data=2, id="other")
        assert (await receive(bob, "message"))["data"] == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer not.a.token"}, 401),
        ({"Authorization": "Bearer {token}", "Origin": "https://elsewhere.example"}, 403),
    ],
    ids=["no token", "bad token", "foreign origin"],
)
async def test_refused(fleet: Fleet, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(token=fleet.token("alice")) for name, value in headers.items()}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(fleet.url, ssl=fleet.trust, additional_headers=sent, proxy=None):
            pass
    assert refused.value.response.status_code == status


async def test_a_browser_connects_with_the_subprotocol_from_its_own_origin(fleet: Fleet) -> None:
    subprotocols = ["bearer", fleet.token("alice")]
    origin = fleet.url.replace("wss:", "https:").removesuffix("/ws")
    async with connect(fleet.url, ssl=fleet.trust, subprotocols=subprotocols, origin=origin, proxy=None) as client:
        assert client.subprotocol == "bearer"
        assert json.loads(await client.recv())["user"] == "alice"


def get(fleet: Fleet, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    edge = http.client.HTTPSConnection(fleet.address(fleet.edge), context=fleet.trust, timeout=10)
    edge.request("GET", path, headers=headers or {})
    return edge.getresponse()


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/metrics", "/healthz", "/readyz", "/wsx", "/ws/../metrics", "//metrics"),
        *("/v1/stats", "/ws/../v1/stats", "/events/../v1/stats", "//v1/stats", "/v1/publish", "/v1/tickets"),
    ],
)
def test_the_edge_forwards_nothing_else(fleet: Fleet, path: str) -> None:
    """The edge answers 404 for any credential and any host name."""
    for headers in ({}, {"Authorization": f"Bearer {fleet.api_key}", "Host": "127.0.0.1:9079"}):
        assert get(fleet, path, headers).status == 404


def test_every_answer_demands_https(fleet: Fleet) -> None:
    assert "max-age=" in (get(fleet, "/ws").getheader("Strict-Transport-Security") or "")
    plain = http.client.HTTPConnection(fleet.address(fleet.edge), timeout=10)
    plain.request("GET", "/ws")
    answer = plain.getresponse()
    assert answer.status in (301, 308)
    assert (answer.getheader("Location") or "").startswith("https://")


def test_no_tls_before_1_3(fleet: Fleet) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((fleet.address(fleet.edge), 443), 10) as plain,
        pytest.raises(ssl.SSLError, match="alert protocol version"),
    ):
        old.wrap_socket(plain)


async def test_the_promise_at_rest(fleet: Fleet) -> None:
    async with watching(fleet, rate=150.0) as witness:
        await progress(witness, 500)
