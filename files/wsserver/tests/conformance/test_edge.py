# SPDX-License-Identifier: MIT
"""The edge, when the worker closes a client's connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from support.wire import text, upgrade_request
from support.worker import Worker

from conformance.edge import Edge
from conformance.test_autobahn import AutobahnWorker


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = AutobahnWorker()
    yield started
    started.remove()


@pytest.fixture
def edge(worker: Worker) -> Iterator[Edge]:
    started = Edge(worker.port)
    yield started
    started.remove()


# A worker discards the client's further data for half a second. If a busy machine delays the client
# for longer, the attempt does not count and the client tries again.
_IN_TIME_S = 0.25


async def close_that_reaches(port: int) -> bool:
    """Whether a client that keeps sending after its mistake gets the close frame, and not a reset."""
    async with asyncio.timeout(50):
        while (reached := await sent_in_time(port)) is None:
            pass
    return reached


async def sent_in_time(port: int) -> bool | None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(upgrade_request())
        await reader.readuntil(b"\r\n\r\n")
        begin = time.monotonic()
        writer.write(b"\xff\xff")
        for _byte in range(50):
            writer.write(text("x"))
            await asyncio.sleep(0.001)
            if time.monotonic() - begin > _IN_TIME_S:
                return None
            if writer.is_closing():
                return False
            if reader.at_eof():
                break
        return (1002).to_bytes(2, "big") in await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return False
    finally:
        writer.close()


async def test_the_close_frame_reaches_a_client_that_is_still_sending(worker: Worker, edge: Edge) -> None:
    await worker.ready()
    for port in (worker.port, edge.port):
        for _four in range(5):
            assert all(await asyncio.gather(*(close_that_reaches(port) for _ in range(4))))
