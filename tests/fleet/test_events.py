# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Server-sent events through the edge."""

from __future__ import annotations

import asyncio
import http.client
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import connection, join, send
from fleet import Fleet

Events = Iterator[tuple[str, str, Any]]


@contextmanager
def stream(fleet: Fleet, room: str, last: str = "") -> Iterator[Events]:
    """An open stream of a room: (name, id, data) of each event as it arrives."""
    edge = http.client.HTTPSConnection(fleet.address(fleet.edge), context=fleet.trust, timeout=30)
    headers = {"Authorization": f"Bearer {fleet.token('reader')}"} | ({"Last-Event-ID": last} if last else {})
    edge.request("GET", f"/events?room={room}", headers=headers)
    answer = edge.getresponse()
    assert answer.status == 200
    assert (answer.getheader("Content-Type") or "").startswith("text/event-stream")
    try:
        yield events(answer)
    finally:
        answer.close()
        edge.close()


def events(answer: http.client.HTTPResponse) -> Events:
    fields: dict[str, str] = {}
    for line in answer:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if line != b"\n":
            fields[name] = value
            continue
        if "data" in fields:
            yield fields.get("event", "message"), fields.get("id", ""), json.loads(fields["data"])
        fields = {}


def next_message(stream_of_events: Events) -> tuple[str, Any]:
    """The id and the data of the next message."""
    while True:
        name, event_id, event = next(stream_of_events)
        if name == "message":
            return event_id, event["data"]


async def test_each_event_arrives_at_once_and_the_last_id_resumes(fleet: Fleet) -> None:
    room = uuid.uuid4().hex
    async with connection(fleet, "alice") as alice:
        await join(alice, room)

        def read_two() -> str:
            with stream(fleet, room) as arriving:
                assert next(arriving)[0] == "joined"
                for n in range(2):
                    # The next event is published only after this one arrived, so nothing may buffer
                    # it.
                    asyncio.run_coroutine_threadsafe(publish(n), loop).result(30)
                    last, data = next_message(arriving)
                    assert data == n
            return last

        async def publish(n: int) -> None:
            await send(alice, type="publish", room=room, data=n, id=str(n))

        loop = asyncio.get_running_loop()
        last = await asyncio.to_thread(read_two)
        for n in range(2, 5):
            await publish(n)

        def read_on() -> list[Any]:
            with stream(fleet, room, last) as arriving:
                return [next_message(arriving)[1] for _ in range(3)]

        assert await asyncio.to_thread(read_on) == [2, 3, 4]


def tcp_connections(pid: int) -> int:
    sockets = {end.readlink().name for end in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(f"socket:[{row[9]}]" in sockets for row in rows)


async def test_many_streams_of_a_client_share_a_connection(fleet: Fleet) -> None:
    """With HTTP/1.1, a browser opens six connections and lets a seventh stream wait for ever."""
    edge = fleet.address(fleet.edge)
    rooms = [uuid.uuid4().hex for _ in range(7)]
    command = ["curl", "--http2", "--silent", "--no-buffer", "--insecure", "--noproxy", "*", "--parallel"]
    command += ["--header", f"Authorization: Bearer {fleet.token('reader')}"]
    for room in rooms:
        command += [f"https://{edge}/events?room={room}", "--output", "-"]
    curl = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert curl.stdout is not None
    heard: dict[str, set[str]] = {"joined": set(), "message": set()}

    async def until_all(kind: str) -> None:
        assert curl.stdout is not None
        while heard[kind] != set(rooms):
            line = await asyncio.wait_for(curl.stdout.readline(), 30)
            if line.startswith(b"data: "):
                event = json.loads(line.removeprefix(b"data: "))
                heard.setdefault(event["type"], set()).add(event.get("room", ""))

    try:
        await until_all("joined")
        assert tcp_connections(curl.pid) == 1
        async with connection(fleet, "alice") as alice:
            for room in rooms:
                await send(alice, type="publish", room=room, data=1, id=room)
            await until_all("message")
    finally:
        curl.terminate()
        await curl.wait()


@pytest.mark.parametrize("path", ["/events?room=lobby", "/events?room=lobby&ticket=none"])
def test_no_stream_without_a_token(fleet: Fleet, path: str) -> None:
    edge = http.client.HTTPSConnection(fleet.address(fleet.edge), context=fleet.trust, timeout=30)
    edge.request("GET", path)
    assert edge.getresponse().status == 401
