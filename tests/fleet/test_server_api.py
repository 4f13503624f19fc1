# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The server API of a backend, its effect on clients behind the edge, and refused requests."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid

import pytest
from clients import closed, connection, join, receive
from fleet import Fleet, eventually
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

# The edge, which skips unavailable workers, and two workers themselves.
PORTS = [9079, 9080, 9083]


@pytest.mark.parametrize("port", PORTS)
async def test_a_publish_reaches_clients_once(fleet: Fleet, port: int) -> None:
    room = uuid.uuid4().hex
    headers = {"Authorization": f"Bearer {fleet.api_key}", "Idempotency-Key": uuid.uuid4().hex}
    async with connection(fleet, "alice") as alice, connection(fleet, "bob") as bob:
        for client in (alice, bob):
            await join(client, room)
        body = {"room": room, "data": {"text": "deployed"}, "from": "deploy-bot"}
        places = [
            await asyncio.to_thread(fleet.api, "POST", "/v1/publish", body, port=port, headers=headers)
            for _ in range(2)
        ]
        assert [(status, place["seq"], place["repeat"]) for status, place in places] == [
            (200, 1, False),
            (200, 1, True),
        ]
        last = {"messages": [{"rooms": [room], "data": "last"}]}
        assert (await asyncio.to_thread(fleet.api, "POST", "/v1/publish/batch", last, port=port))[0] == 200
        for client in (alice, bob):
            messages = [await receive(client, "message") for _ in range(2)]
            assert [(message["from"], message["data"]) for message in messages] == [
                ("deploy-bot", {"text": "deployed"}),
                ("server", "last"),
            ]


async def test_presence_and_history_of_a_room(fleet: Fleet) -> None:
    room = f"team/{uuid.uuid4().hex}"
    path = f"/v1/rooms/{room.replace('/', '%2F')}"
    async with connection(fleet, "alice") as alice, connection(fleet, "bob") as bob, connection(fleet, "bob") as too:
        for client in (alice, bob, too):
            await join(client, room)
        for port in PORTS:
            status, presence = await asyncio.to_thread(fleet.api, "GET", f"{path}/presence", port=port)
            members = [(member["user"], member["connections"]) for member in presence["members"]]
            assert (status, members, presence["count"]) == (200, [("alice", 1), ("bob", 2)], 2)
    assert (await asyncio.to_thread(fleet.api, "POST", "/v1/publish", {"room": room, "data": 1}))[0] == 200
    status, history = await asyncio.to_thread(fleet.api, "GET", f"{path}/history")
    assert (status, [message["data"] for message in history["messages"]]) == (200, [1])


async def test_a_ticket_opens_one_connection_and_appears_in_no_log(fleet: Fleet) -> None:
    start = time.time()
    room = uuid.uuid4().hex
    status, issued = fleet.api("POST", "/v1/tickets", {"user": "ticketed", "join": [room], "publish": []})
    assert status == 200

    agent = uuid.uuid4().hex

    def with_ticket() -> connect:
        url = f"{fleet.url}?ticket={issued['ticket']}"
        return connect(url, ssl=fleet.trust, user_agent_header=agent, proxy=None)

    async with with_ticket() as client:
        assert json.loads(await client.recv())["user"] == "ticketed"
        await join(client, room)
    with pytest.raises(InvalidStatus) as refused:
        async with with_ticket():
            pass
    assert refused.value.response.status_code == 401

    def logs(host: str) -> str:
        return fleet.ssh(host, f"journalctl --since @{int(start)} --output cat; cat /var/log/nginx/*.log", check=False)

    def written() -> bool:
        return logs(fleet.edge).count(agent) == 2 and '"user":"ticketed"' in logs(fleet.worker_host)

    await asyncio.to_thread(eventually, written, 30, "both connections are in the logs")
    for host in fleet.hosts:
        said = logs(host)
        assert issued["ticket"] not in said
        assert fleet.api_key not in said


async def test_a_user_is_disconnected_from_all_workers(fleet: Fleet) -> None:
    user = f"leaving-{uuid.uuid4().hex[:8]}"
    async with connection(fleet, user) as one, connection(fleet, user) as two, connection(fleet, "staying") as other:
        body = {"reason": "signed out"}
        status, _ = await asyncio.to_thread(fleet.api, "POST", f"/v1/users/{user}/disconnect", body)
        assert status == 202
        assert [await closed(client) for client in (one, two)] == [(1008, "signed out")] * 2
        await other.ping()


@pytest.mark.parametrize("port", PORTS)
def test_requests_without_the_key_are_refused(fleet: Fleet, port: int) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {fleet.token('alice')}"}):
        for method, path, body in (("GET", "/v1/stats", None), ("POST", "/v1/publish", {"room": "r", "data": 1})):
            status, answer = fleet.api(method, path, body, port=port, headers=headers)
            assert (status, answer["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("port", [*PORTS, 8080])
def test_no_other_host_reaches_it(fleet: Fleet, port: int) -> None:
    socket.create_connection((fleet.address(fleet.edge), 443), 10).close()
    for host in fleet.hosts:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((fleet.address(host), port), 10)


async def test_the_edge_skips_unavailable_workers(fleet: Fleet) -> None:
    """This includes requests without a key, because a worker that refuses did not receive them."""
    room = uuid.uuid4().hex
    away = "ws-server@80 ws-server@81 ws-server@82"
    try:
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, f"systemctl stop {away}")
        for n in range(8):
            body = {"room": room, "data": n}
            assert (await asyncio.to_thread(fleet.api, "POST", "/v1/publish", body))[0] == 200
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, "systemctl stop ws-server@83")
        status, answer = await asyncio.to_thread(fleet.api, "POST", "/v1/publish", body)
        assert (status, answer["error"]["code"]) == (504, "outcome_unknown")
    finally:
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, f"systemctl start {away} ws-server@83")
    _, history = await asyncio.to_thread(fleet.api, "GET", f"/v1/rooms/{room}/history")
    assert [message["data"] for message in history["messages"]] == list(range(8))


async def test_a_worker_dies_during_a_request(fleet: Fleet) -> None:
    """nginx repeats a publish with a key at the next worker, and it is published once.

    Only its backend may repeat a publish without a key.
    """
    room = uuid.uuid4().hex
    wedged = [instance for instance in fleet.instances() if instance != "83"]
    pids = " ".join(str(fleet.pid(instance)) for instance in wedged)
    authorization = {"Authorization": f"Bearer {fleet.api_key}"}
    await asyncio.to_thread(fleet.ssh, fleet.worker_host, f"kill -STOP {pids}")
    keyed, keyless = await asyncio.gather(
        *(
            asyncio.gather(
                *(
                    asyncio.to_thread(
                        fleet.api, "POST", "/v1/publish", {"room": room, "data": [kind, n]}, headers=authorization | key
                    )
                    for n, key in enumerate(keys)
                )
            )
            for kind, keys in (
                ("keyed", [{"Idempotency-Key": uuid.uuid4().hex} for _ in range(4)]),
                ("keyless", [{}] * 4),
            )
        )
    )
    assert [status for status, _ in keyed] == [200] * 4
    assert {(status, status == 200 or answer["error"]["code"]) for status, answer in keyless} <= {
        (200, True),
        (504, "outcome_unknown"),
    }
    assert [status for status, _ in keyless].count(504) > 0, "no request met a worker that died"
    for instance in wedged:
        await asyncio.to_thread(eventually, lambda it=instance: fleet.ready(it), 60, f"worker {instance} ready")
    _, history = await asyncio.to_thread(fleet.api, "GET", f"/v1/rooms/{room}/history")
    published = [tuple(message["data"]) for message in history["messages"]]
    assert len(set(published)) == len(published), "something was published twice"
    assert {("keyed", n) for n in range(4)} <= set(published)
