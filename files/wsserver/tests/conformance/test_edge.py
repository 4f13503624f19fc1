# SPDX-License-Identifier: MIT
"""The edge, when the worker closes a client's connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from support.browser import chromium
from support.ports import free_port
from support.wire import text, upgrade_request
from support.worker import ORIGIN, Worker

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


async def ask(port: int, target: str, *headers: str) -> str:
    """The whole answer to a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        return (await asyncio.wait_for(reader.read(), 20)).decode()
    finally:
        writer.close()


@pytest.fixture
def lonely_edge() -> Iterator[Edge]:
    """An edge without a worker."""
    started = Edge(free_port(), origins=[ORIGIN, "https://[2001:db8::1]:8443"])
    yield started
    started.remove()


async def test_pages_of_listed_origins_may_read_that_no_worker_is_ready(lonely_edge: Edge) -> None:
    for origin in (ORIGIN, "https://[2001:db8::1]:8443"):
        answer = await ask(lonely_edge.port, "/events?room=r", f"Origin: {origin}")
        assert answer.startswith("HTTP/1.1 503 ")
        assert f"Access-Control-Allow-Origin: {origin}\r\n" in answer
        assert "Access-Control-Allow-Credentials: true\r\n" in answer
        assert "Retry-After: 1\r\n" in answer
        assert "Vary: Origin\r\n" in answer
    for header in ("Origin: https://evil.example", f"Origin: {ORIGIN}.evil.example", "X: y"):
        answer = await ask(lonely_edge.port, "/events?room=r", header)
        assert answer.startswith("HTTP/1.1 503 ")
        assert "Access-Control-Allow" not in answer


async def test_a_page_that_sends_authorization_may_read_that_no_worker_is_ready(worker: Worker) -> None:
    """The browser's preflight finds no worker either."""
    await worker.ready()
    page_url = f"http://127.0.0.1:{worker.port}"
    listed, unlisted = Edge(free_port(), origins=[page_url]), Edge(free_port(), origins=[ORIGIN])
    try:
        async with chromium() as browser:
            page = await browser.new_page()  # a tab with a page of its own would answer preflights itself
            await page.goto(f"{page_url}/healthz")
            for edge, status in ((listed, 503), (unlisted, "TypeError")):
                url, headers = f"http://127.0.0.1:{edge.port}/events?room=r", "{ Authorization: 'Bearer x' }"
                fetched = (
                    f"fetch('{url}', {{ headers: {headers} }}).then(({{ status }}) => status, ({{ name }}) => name)"
                )
                assert await page.evaluate(fetched) == status
    finally:
        listed.remove()
        unlisted.remove()


async def test_a_request_that_is_too_large_is_told_so(worker: Worker, edge: Edge) -> None:
    await worker.ready()
    for port in (worker.port, edge.port):
        answer = await ask(port, "/events?room=r", f"Authorization: Bearer {'x' * 9000}")
        assert answer.startswith("HTTP/1.1 431 ")
        assert "he headers are too large" in answer
        assert "8192 bytes" in answer
        assert (await ask(port, "/ws?ticket=" + "x" * 9000)).startswith("HTTP/1.1 414 ")
        # What the clients take as the limit passes. (The worker of these tests adds a token.)
        answer = await ask(port, "/events?room=r", f"Authorization: Bearer {'x' * 8000}")
        assert "more than one Origin or Authorization header" in answer
        assert "name one room" in await ask(port, f"/events?ticket={'x' * 7985}")
