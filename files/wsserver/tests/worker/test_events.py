# SPDX-License-Identifier: MIT
"""Server-sent events: the same rooms, through plain HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from support.worker import ORIGIN, SECRET, Worker

from wsserver.auth import mint

Start = Callable[..., Worker]


class Event(NamedTuple):
    name: str
    id: str | None
    data: Any


class Stream:
    def __init__(self, reader: asyncio.StreamReader, head: str) -> None:
        self._reader = reader
        self.head = head

    async def next(self) -> Event:
        """As the specification of EventSource has it."""
        name, id, data = "message", None, []
        while True:
            line = (await asyncio.wait_for(self._reader.readuntil(b"\n"), 20)).decode().rstrip("\n")
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "id":
                id = value
            elif field == "data":
                data.append(value)
            elif not line and data:
                return Event(name, id, json.loads("\n".join(data)))

    async def end(self) -> bytes:
        return await asyncio.wait_for(self._reader.read(), 20)


@asynccontextmanager
async def events(
    worker: Worker, room: str = "r", user: str = "alice", last: str = "", origin: str = ""
) -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    token = mint(SECRET, user, 600)
    lines = [f"GET /events?room={room} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"]
    lines += [f"Last-Event-ID: {last}"] if last else []
    lines += [f"Origin: {origin}"] if origin else []
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode()
    assert head.startswith("HTTP/1.1 200 "), head
    assert "text/event-stream" in head
    yield Stream(reader, head)
    writer.close()


async def test_messages_come_with_the_position_to_resume_from(start: Start) -> None:
    worker = await start().ready()
    publisher = await worker.client("bob")
    async with events(worker) as stream:
        joined = await stream.next()
        assert joined.name == "joined"
        await publisher.publish("a\nb", "1")
        await publisher.publish({"n": 2}, "2")
        first, second = await stream.next(), await stream.next()
        assert (first.name, first.data["data"], first.data["from"]) == ("message", "a\nb", "bob")
        epoch = joined.data["epoch"]
        assert [first.id, second.id] == [f"{epoch}-{joined.data['seq'] + n}" for n in (1, 2)]
    samples = await worker.metrics()
    assert samples["ws_active_connections"] == 1


async def test_a_stream_resumes_on_another_worker(start: Start) -> None:
    first, second = await start().ready(), await start().ready()
    publisher = await second.client("bob")
    async with events(first) as stream:
        await stream.next()
        await publisher.publish(0, "0")
        seen = await stream.next()
    for n in range(1, 50):
        await publisher.publish(n, str(n))
    assert seen.id is not None
    async with events(second, last=seen.id) as stream:
        joined = await stream.next()
        assert joined.data["recovered"] is True
        resumed = [(await stream.next()).data["data"] for _ in range(49)]
        assert resumed == list(range(1, 50))


async def test_refused_streams(start: Start) -> None:
    worker = await start(WS_DEFAULT_JOIN="r").ready()
    good = f"Authorization: Bearer {mint(SECRET, 'alice', 60)}"
    for path, headers, status, text in (
        ("/events?room=r", [], 401, "no token"),
        ("/events", [good], 400, "name one room"),
        ("/events?room=r&room=s", [good], 400, "name one room"),
        ("/events?room=%20", [good], 400, "not valid"),
        ("/events?room=r", [good, "Last-Event-ID: nonsense"], 400, "epoch"),
        ("/events?room=r", [good, "Last-Event-ID: 1-x"], 400, ""),
        ("/events?room=r", [good, "Last-Event-ID: 1-1", "Last-Event-ID: 1-2"], 400, "more than one Last-Event-ID"),
        ("/events?room=r&last_event_id=1-1&last_event_id=1-2", [good], 400, "more than one Last-Event-ID"),
        ("/events?room=s", [good], 403, "does not let you join"),
        ("/events?room=r", [good, "Origin: https://evil.example"], 403, "origin"),
    ):
        got, answer = await worker.http(path, *headers)
        assert got == status, (path, headers, answer)
        assert text in answer
    async with events(worker):
        pass
    assert (await worker.http("/events?room=r", good, method="POST"))[0] == 405


async def test_a_page_of_an_allowed_origin_may_read(start: Start) -> None:
    worker = await start().ready()
    async with events(worker, origin=ORIGIN) as stream:
        assert f"Access-Control-Allow-Origin: {ORIGIN}\r\n" in stream.head
    async with events(worker) as stream:
        assert "Access-Control" not in stream.head


async def test_a_page_of_another_origin_may_send_authorization(start: Start) -> None:
    """A browser asks first, because `fetch` sends a header that a form could not."""
    worker = await start().ready()
    asked = ["Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization,last-event-id"]
    status, answer = await worker.http("/events?room=r", f"Origin: {ORIGIN}", *asked, method="OPTIONS")
    assert status == 204
    head = answer.lower()
    for line in (
        f"access-control-allow-origin: {ORIGIN}",
        "access-control-allow-credentials: true",
        "access-control-allow-methods: get",
        "vary: origin",
    ):
        assert f"{line}\r\n" in head
    assert "authorization" in head.partition("access-control-allow-headers: ")[2].partition("\r\n")[0]
    assert "last-event-id" in head.partition("access-control-allow-headers: ")[2].partition("\r\n")[0]
    for origin in ("https://evil.example", "null", f"{ORIGIN}, {ORIGIN}"):
        status, answer = await worker.http("/events?room=r", f"Origin: {origin}", *asked, method="OPTIONS")
        assert (status, "access-control" in answer.lower()) == (403, False)
    assert (await worker.http("/events?room=r", *asked, method="OPTIONS"))[0] == 403
    assert (await worker.http("/ws", f"Origin: {ORIGIN}", *asked, method="OPTIONS"))[0] == 405


async def test_a_page_may_read_why_its_stream_is_refused(start: Start) -> None:
    worker = await start(WS_DEFAULT_JOIN="r", WS_MAX_CONNECTIONS_PER_USER="1").ready()
    good, page = f"Authorization: Bearer {mint(SECRET, 'alice', 60)}", f"Origin: {ORIGIN}"
    async with events(worker):
        for path, headers, status in (
            ("/events?room=r", [], 401),
            ("/events", [good], 400),
            ("/events?room=s", [good], 403),
            ("/events?room=r", [good], 429),
        ):
            got, answer = await worker.http(path, page, *headers)
            assert got == status
            assert f"Access-Control-Allow-Origin: {ORIGIN}\r\n" in answer
            assert "Vary: Origin\r\n" in answer
        _, answer = await worker.http("/events?room=r", good, "Origin: https://evil.example")
        assert "Access-Control" not in answer


async def test_a_page_may_read_that_its_address_was_refused_too_often(start: Start) -> None:
    worker = await start(WS_IP_REFUSALS_PER_S="1").ready()
    async with asyncio.timeout(30):
        while (await worker.http("/events?room=r", f"Origin: {ORIGIN}"))[0] != 429:
            pass
    _, answer = await worker.http("/events?room=r", f"Origin: {ORIGIN}")
    assert f"Access-Control-Allow-Origin: {ORIGIN}\r\n" in answer
    _, answer = await worker.http("/events?room=r", "Origin: https://evil.example")
    assert "Access-Control" not in answer


async def test_streams_count_as_connections(start: Start) -> None:
    worker = await start(WS_MAX_CONNECTIONS_PER_USER="2").ready()
    good = f"Authorization: Bearer {mint(SECRET, 'alice', 60)}"
    async with events(worker), events(worker):
        assert (await worker.http("/events?room=r", good))[0] == 429
        assert (await worker.metrics())["ws_event_streams"] == 2


async def test_a_drain_asks_streams_to_reconnect(start: Start) -> None:
    worker = await start().ready()
    async with events(worker) as stream:
        await stream.next()
        worker.signal(signal.SIGTERM)
        hint = await stream.next()
        assert hint.name == "reconnect"
        closed = await stream.next()
        assert (closed.name, closed.data["code"]) == ("closed", 1001)
        await stream.end()
    assert await asyncio.to_thread(worker.wait) == 0
    assert [line["code"] for line in worker.log("disconnect")] == [1001]


async def test_an_unread_stream_is_closed_and_others_continue(start: Start) -> None:
    worker = await start(WS_SEND_BUFFER_BYTES="16384", WS_SLOW_CLIENT_S="1", WS_HEARTBEAT_S="1").ready()
    publisher = await worker.client("bob")
    async with events(worker) as slow:
        await slow.next()
        reader = slow._reader
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        async with events(worker) as fast:
            await fast.next()
            for n in range(300):
                await publisher.publish("x" * 30000, str(n))
                await publisher.acks(1)
                assert len((await fast.next()).data["data"]) == 30000
            async with asyncio.timeout(30):
                while (await worker.metrics())["ws_event_streams"] != 1:  # noqa: ASYNC110 - it is another process
                    await asyncio.sleep(0.1)
    assert {line["code"] for line in worker.log("disconnect")} >= {1013}
