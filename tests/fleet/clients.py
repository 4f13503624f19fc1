# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A client as docs/protocol.md wants it: it resumes by seq, repeats what was not acknowledged, and obeys `reconnect`.

With it, the promise is checked while something is done to the fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fleet import Fleet
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

RETRY_S = 0.2
# What was refused is repeated at this pace: hundreds of repeats a second would meet the connection's own limit.
REPEAT_S = 2.0


@contextlib.asynccontextmanager
async def connection(fleet: Fleet, user: str) -> AsyncIterator[ClientConnection]:
    """A plain connection, after its `welcome`."""
    headers = {"Authorization": f"Bearer {fleet.token(user)}"}
    async with connect(fleet.url, ssl=fleet.trust, additional_headers=headers, proxy=None) as client:
        welcome = json.loads(await client.recv())
        assert welcome["type"] == "welcome"
        assert welcome["user"] == user
        yield client


async def send(client: ClientConnection, **command: Any) -> None:
    await client.send(json.dumps(command))


async def receive(client: ClientConnection, *types: str, within: float = 10) -> dict[str, Any]:
    """The next event of one of these types."""
    async with asyncio.timeout(within):
        while True:
            event: dict[str, Any] = json.loads(await client.recv())
            if event["type"] in types:
                return event
            assert event["type"] != "error", event


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """The code and the reason with which the server closes the connection."""
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await client.recv()
    return client.close_code, client.close_reason


async def join(client: ClientConnection, room: str, **since: Any) -> dict[str, Any]:
    await send(client, type="join", room=room, **since)
    return await receive(client, "joined")


class ResumingClient:
    """Joins one room and stays in it; `received` holds (epoch, seq, data) of every message, `trouble` what went wrong."""

    def __init__(self, fleet: Fleet, user: str, room: str) -> None:
        self.received: list[tuple[str, int, Any]] = []
        self.acknowledged: list[Any] = []
        self.connects = 0
        self.trouble: list[str] = []
        self.joined = asyncio.Event()
        self._fleet = fleet
        self._user = user
        self._room = room
        self._position: tuple[str, int] | None = None
        self._unacknowledged: dict[str, Any] = {}
        self._client: ClientConnection | None = None
        self._retries: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        while True:
            pause = RETRY_S
            try:
                async with connection(self._fleet, self._user) as client:
                    self.connects += 1
                    pause = await self._converse(client)
            except (WebSocketException, OSError, TimeoutError):
                pass
            finally:
                self._client = None
            await asyncio.sleep(pause)

    async def publish(self, data: Any) -> None:
        key = uuid.uuid4().hex
        self._unacknowledged[key] = data
        await self._send_publish(key)

    @property
    def outstanding(self) -> int:
        return len(self._unacknowledged)

    async def _converse(self, client: ClientConnection) -> float:
        since = {} if self._position is None else {"since": dict(zip(("epoch", "seq"), self._position, strict=True))}
        await send(client, type="join", room=self._room, **since)
        async for frame in client:
            event = json.loads(frame)
            if event["type"] == "joined":
                if since and not event["recovered"]:
                    self.trouble.append(f"not recovered: {event}")
                self._position = event["epoch"], event["seq"]
                self._client = client
                self.joined.set()
                for key in list(self._unacknowledged):
                    await self._send_publish(key)
            elif event["type"] == "message":
                assert self._position is not None
                self._position = self._position[0], event["seq"]
                self.received.append((*self._position, event["data"]))
            elif event["type"] == "ack":
                self.acknowledged.append(self._unacknowledged.pop(event["id"], None))
            elif event["type"] == "reconnect":
                return float(event["after_ms"]) / 1000
            elif event["type"] == "error" and event.get("id") in self._unacknowledged:
                retry = asyncio.create_task(self._send_publish(event["id"], after=REPEAT_S))
                self._retries.add(retry)
                retry.add_done_callback(self._retries.discard)
            elif event["type"] == "error" and "room" in event:
                return RETRY_S  # the join failed
            elif event["type"] == "error":
                # An answer to a repeat that was not needed any more, or the notice that what was sent waits.
                assert "id" in event or event["code"] == "rate_limited", event
            else:
                self.trouble.append(f"unexpected: {event}")
        return RETRY_S

    async def _send_publish(self, key: str, after: float = 0) -> None:
        await asyncio.sleep(after)
        if self._client is not None and key in self._unacknowledged:
            # Over a broken connection it is sent again after the next join.
            with contextlib.suppress(ConnectionClosed):
                await send(self._client, type="publish", room=self._room, data=self._unacknowledged[key], id=key)


class Witness:
    """Publishers and subscribers of one room while something happens; `check` holds them against the promise."""

    def __init__(self, fleet: Fleet, subscribers: int = 8, publishers: int = 2, interval_s: float = 0.02) -> None:
        room = f"witness-{uuid.uuid4().hex[:8]}"
        self.subscribers = [ResumingClient(fleet, f"subscriber-{n}", room) for n in range(subscribers)]
        self.publishers = [ResumingClient(fleet, f"publisher-{n}", room) for n in range(publishers)]
        self._interval_s = interval_s
        self._publishing = True

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Witness]:
        clients = self.subscribers + self.publishers
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(client.run()) for client in clients]
            async with asyncio.timeout(30):
                await asyncio.gather(*(client.joined.wait() for client in clients))
            publishing = [group.create_task(self._publish(n)) for n in range(len(self.publishers))]
            yield self
            self._publishing = False
            await asyncio.gather(*publishing)
            await self._settle()
            for task in running:
                task.cancel()
        self.check()

    async def _publish(self, n: int) -> None:
        for count in itertools.count():
            if not self._publishing:
                return
            await self.publishers[n].publish([n, count])
            await asyncio.sleep(self._interval_s)

    @property
    def acknowledged(self) -> int:
        return sum(len(publisher.acknowledged) for publisher in self.publishers)

    async def progress(self, count: int) -> None:
        """Wait until `count` more messages are acknowledged."""
        wanted = self.acknowledged + count
        for _ in range(600):
            if self.acknowledged >= wanted:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"only {self.acknowledged} of {wanted} messages were acknowledged within 60 s")

    async def _settle(self) -> None:
        """Wait until everything is acknowledged and delivered, or clearly will not be."""
        for _ in range(300):
            waiting = sum(publisher.outstanding for publisher in self.publishers)
            behind = any(len(subscriber.received) < self.acknowledged for subscriber in self.subscribers)
            if not waiting and not behind:
                return
            await asyncio.sleep(0.1)

    def check(self) -> None:
        acknowledged = [tuple(data) for publisher in self.publishers for data in publisher.acknowledged]
        assert acknowledged, "nothing was acknowledged: the witness saw nothing"
        assert sum(publisher.outstanding for publisher in self.publishers) == 0
        for subscriber in self.subscribers:
            assert not subscriber.trouble, subscriber.trouble[:5]
            delivered = [tuple(data) for _, _, data in subscriber.received]
            assert len(set(delivered)) == len(delivered), "a message came twice"
            assert set(acknowledged) <= set(delivered), "an acknowledged message was lost"
            positions = [(epoch, seq) for epoch, seq, _ in subscriber.received]
            first = positions[0][1]
            assert positions == [(positions[0][0], first + n) for n in range(len(positions))], "out of order, or a hole"
