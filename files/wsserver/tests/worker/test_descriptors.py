# SPDX-License-Identifier: MIT
"""A worker that runs out of file descriptors: it keeps its clients, and what it needs itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.ports import free_port
from support.redis_server import RedisServer
from support.wait import until
from support.worker import Client, Worker
from websockets.exceptions import InvalidHandshake, InvalidStatus

from wsserver.limits.descriptors import Descriptors

Start = Callable[..., Worker]


def limit_descriptors(worker: Worker, limit: int) -> None:
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (limit, limit))


async def fill(worker: Worker) -> tuple[list[Client], Counter[int]]:
    """Connect until the worker has refused twenty clients."""
    clients: list[Client] = []
    refused = Counter[int]()
    while refused.total() < 20:
        try:
            clients.append(await worker.client(f"user{len(clients)}"))
        except InvalidStatus as exc:
            refused[exc.response.status_code] += "Retry-After" in exc.response.headers
    return clients, refused


async def test_new_clients_are_refused_before_the_worker_is_out_of_descriptors(
    start: Start, redis: RedisServer, run_directory: Path
) -> None:
    socket = run_directory / "control.sock"
    worker = await start(WS_CONTROL_SOCKET=str(socket)).ready()
    limit_descriptors(worker, 1024)
    clients, refused = await fill(worker)
    assert refused.keys() == {503}
    assert 100 < len(clients) < 1024 - 128
    metrics = await worker.metrics()
    assert metrics['ws_limited_total{limit="descriptors"}'] == 20
    assert metrics["process_open_fds"] < 1024 - 100
    status, text = await worker.http("/readyz")
    assert status == 200
    assert text.endswith("ready, but no file descriptor is free for new clients\n")
    assert (await ask(socket))["descriptors_scarce"] is True
    # A break of all connections to Redis: the worker has what it needs to reconnect.
    redis.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    redis.client().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: len(worker.log("broker_available")) > 1)
    for client in (clients[0], clients[-1]):
        await client.join()
        await client.publish("hello", "1")
        assert (await client.next())["type"] in ("ack", "message")
    await until(lambda: worker.log("descriptors_scarce"))
    assert len(worker.log("descriptors_scarce")) < 3
    assert not worker.log("refused")
    for client in clients[:20]:
        await client.connection.close()
    await until(lambda: worker.log("descriptors_suffice"))
    await worker.client("bob")
    assert (await worker.http("/readyz"))[1].endswith("ready\n")
    assert (await ask(socket))["descriptors_scarce"] is False


async def test_a_worker_without_any_descriptor_keeps_its_clients_and_does_not_spin(start: Start) -> None:
    """Connections to the server API have taken the reserve: each accept fails with EMFILE."""
    api_port = free_port()
    worker = await start(WS_API_PORT=str(api_port), WS_API_KEY="k" * 32).ready()
    clients = [await worker.client(f"user{n}") for n in range(3)]
    limit_descriptors(worker, 200)
    held = [await asyncio.open_connection("127.0.0.1", api_port) for _ in range(200)]
    assert open_descriptors(worker) >= 199
    held += [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(20)]
    used = cpu_s(worker)
    await asyncio.sleep(2)
    assert cpu_s(worker) - used < 0.5
    for client in clients:
        await client.publish("hello", "1")
        await client.acks(1)
    with pytest.raises((OSError, InvalidHandshake, EOFError)):
        await worker.connect("bob")
    for _reader, writer in held:
        writer.close()
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError, InvalidHandshake, EOFError):
                await worker.client("bob")
                break
            await asyncio.sleep(0.1)
    assert worker.process.poll() is None


def open_descriptors(worker: Worker) -> int:
    return len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))


def cpu_s(worker: Worker) -> float:
    user, system = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100


async def ask(socket: Path) -> dict[str, object]:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(b'{"cmd":"status"}\n')
    answer: dict[str, object] = json.loads(await reader.readline())["result"]
    writer.close()
    return answer


def test_the_log_has_one_line_for_all_refusals_of_some_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    descriptors = Descriptors()
    monkeypatch.setattr("wsserver.limits.descriptors._limit", lambda: 4)
    for _ in range(100):
        assert not descriptors.for_client()
        descriptors.tick()
    assert capsys.readouterr().out.count("descriptors_scarce") == 1
    assert descriptors.scarce
