# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Clients of a fleet: plain connections, and the witness, which checks the promise meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fleet import Fleet
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from wsserver.witness import Plan, Report, Witness
from wsserver.witness.latencies import Latencies

# The witness waits only as long as needed. A client that found no worker retries after up to 20 s.
SETTLE_S = 90.0
PROGRESS_S = 120.0


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


def witness(fleet: Fleet, edge: str | None = None, **plan: Any) -> Witness:
    """By default, two publishers and eight subscribers of one room, with 25 messages per second."""
    chosen = {"connections": 8, "rooms": 1, "publishers": 2, "rate": 25.0, "settle_s": SETTLE_S, **plan}
    return Witness(Plan(fleet.url_of(edge or fleet.edge), fleet.credentials, fleet.trust, **chosen))


@contextlib.asynccontextmanager
async def watching(fleet: Fleet, **plan: Any) -> AsyncIterator[Witness]:
    """Check the promise during the context."""
    async with witness(fleet, **plan) as one:
        yield one
        await finish(one)


async def finish(witness: Witness) -> Report:
    """The report, if the promise was kept and every publish was acknowledged."""
    report = await witness.finish()
    print(report.text())
    assert report.verdict == "kept", report.text()
    assert report.acknowledged == report.published
    return report


async def latencies_at_rest(fleet: Fleet) -> Latencies:
    """The latencies of deliveries over six seconds, with a hundred messages each.

    Six seconds are longer than any timeout of the monitoring. No client is disconnected.
    """
    async with witness(fleet, rate=100.0) as one:
        await progress(one, 600)
        report = await finish(one)
    assert report.disconnects == 0, report.text()
    return report.to_delivery


def assert_as_fast(before: Latencies, now: Latencies) -> None:
    """Compare the medians: a busy machine delays some deliveries, a waiting worker delays all."""
    for percent in (50, 99):
        print(f"p{percent} {now.percentile(percent):.4f} s, before {before.percentile(percent):.4f} s")
    assert now.percentile(50) < max(1.0, 10 * before.percentile(50))


async def progress(witness: Witness, count: int) -> None:
    """Wait until `count` more messages are acknowledged."""
    wanted = witness.ledger.acknowledged + count
    async with asyncio.timeout(PROGRESS_S):
        while witness.ledger.acknowledged < wanted:  # noqa: ASYNC110 - it goes up many times a second
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def new_clients(fleet: Fleet, at_once: int = 6) -> AsyncIterator[list[float]]:
    """Keep opening connections. The list has the time that each waited for its welcome."""
    waits: list[float] = []
    stop = asyncio.Event()

    async def arrive() -> None:
        while not stop.is_set():
            start = time.monotonic()
            async with connection(fleet, "newcomer"):
                waits.append(time.monotonic() - start)
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(arrive())
        yield waits
        stop.set()
