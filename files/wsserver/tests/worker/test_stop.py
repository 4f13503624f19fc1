# SPDX-License-Identifier: MIT
"""The stop of a worker ends in time, whatever hangs. test_stopping.py compares the unit's TimeoutStopSec."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import pytest
from support.ports import free_port
from support.redis_server import RedisServer
from support.wire import upgrade_request
from support.worker import SECRET, Worker

from wsserver.auth import mint
from wsserver.transport import drain
from wsserver.transport.registry import ConnectionRegistry


async def test_a_stop_does_not_wait_for_a_hung_redis_and_a_slow_request_one_after_the_other(
    start_cold: Callable[..., Worker], redis: RedisServer
) -> None:
    """A client that answers nothing is cut off after 4.5 s, a request after 8 s, both from SIGTERM on.

    Then Redis has 4 s.
    """
    port = free_port()
    # The worker reads a request for as long as WS_HANDSHAKE_S.
    settings = {"WS_API_PORT": str(port), "WS_HANDSHAKE_S": "60"}
    worker = await start_cold(WS_API_KEY=SECRET, **settings).ready()
    clients = [await worker.client(f"user{n}") for n in range(3)]
    for client in clients:
        await client.join()
    _, silent = await asyncio.open_connection("127.0.0.1", worker.port)
    silent.write(upgrade_request(Authorization=f"Bearer {mint(SECRET, 'silent', 600)}"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/publish HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {SECRET}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{".encode())
    await asyncio.sleep(0.5)  # the request runs, and waits for its body
    redis.signal(signal.SIGSTOP)
    try:
        worker.signal(signal.SIGTERM)
        began = time.monotonic()
        assert [await client.closed() for client in clients] == [(1001, "the server is going away")] * 3
        left = time.monotonic() - began
        await asyncio.wait_for(reader.read(), 30)
        answered = time.monotonic() - began
        assert await asyncio.to_thread(worker.wait) == 0
        stopped = time.monotonic() - began
    finally:
        redis.signal(signal.SIGCONT)
        writer.close()
        silent.close()
    assert left < drain._GRACE_S + drain._CLOSE_WAIT_S
    assert answered < 8 + 2 + 0.5, "the request had its time only after the clients had left"
    assert stopped - answered < 2 + 4 + 1


class _Slow:
    """A client that takes long to notify. took_s: for all of them."""

    took_s = 0.0

    def __init__(self) -> None:
        self.session = self
        self.codes: list[int] = []

    def send(self, event: object) -> None:
        began = time.monotonic()
        time.sleep(0.02)
        _Slow.took_s += time.monotonic() - began

    def close(self, code: int, reason: str) -> None:
        self.codes.append(code)


async def test_the_work_of_a_drain_does_not_make_its_window_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_UNPACED_PER_S", 1)
    monkeypatch.setattr(drain, "_GRACE_S", 0.0)
    monkeypatch.setattr(_Slow, "took_s", 0.0)
    clients = [_Slow() for _ in range(100)]
    registry = ConnectionRegistry(10, 25, 30)
    monkeypatch.setattr(ConnectionRegistry, "open_connections", property(lambda self: list(clients)))
    began = time.monotonic()
    await drain.drain(registry, 3.0)
    # Half of the work is what a busy machine may add.
    assert time.monotonic() - began < max(3.0, _Slow.took_s) + _Slow.took_s / 2
    assert [client.codes for client in clients] == [[1001]] * 100
