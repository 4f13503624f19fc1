# SPDX-License-Identifier: MIT
"""Connections of a real acceptor on loopback."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from pydantic import SecretStr
from support.services import SECRET, make_services
from support.wait import until
from websockets.asyncio.client import connect

from wsserver.archive.history import History
from wsserver.auth import mint
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.hub import Hub
from wsserver.runtime.pauses import Pauses
from wsserver.sessions.session import Session
from wsserver.settings import Settings
from wsserver.status import BrokerStatus
from wsserver.storage.memory.broker import MemoryBroker
from wsserver.transport.acceptor import Acceptor
from wsserver.transport.connection import Connection
from wsserver.transport.registry import ConnectionRegistry
from wsserver.transport.websocket_protocol import WebSocketProtocol


async def _never(*_arguments: object) -> None:
    await asyncio.Event().wait()


async def test_a_lost_connection_is_freed_without_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection visits all objects, and the event loop waits for it."""
    broker, writer = MemoryBroker(100), BatchWriter()
    hub = Hub(broker, History(broker, None), writer)
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=25, slow_client_s=30)
    settings = Settings(jwt_secret=SecretStr(SECRET))
    context = make_services(hub, broker, writer)
    acceptor = Acceptor(settings, context, registry, lambda: None, lambda: BrokerStatus(True), {}, Pauses())
    running = [asyncio.create_task(work) for work in (broker.run(hub, lambda payload: None), context.quotas.run())]
    await until(lambda: context.quotas.available)
    server = await asyncio.get_running_loop().create_server(acceptor.connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gc.collect()
    gc.disable()
    try:
        headers = {"Authorization": f"Bearer {mint(SECRET, 'alice', 600)}"}
        async with connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers, proxy=None) as client:
            await client.recv()
            await client.send('{"type":"join","room":"r"}')
            await client.recv()
        monkeypatch.setattr(Hub, "join", _never)
        lost = await connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers, proxy=None)
        await lost.recv()
        await lost.send('{"type":"join","room":"r"}')
        await until(lambda: any(client.session._busy for client in registry.open_connections if client.session))
        for client in registry.open_connections:
            client.abort()
        await lost.wait_closed()
        monkeypatch.undo()
        # Without a close frame.
        lost = await connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers, proxy=None)
        await lost.recv()
        lost.transport.abort()
        del client, lost
        await until(lambda: registry.idle)
        reader, plain = await asyncio.open_connection("127.0.0.1", port)
        plain.write(b"no request\r\n\r\n")
        await reader.read()
        plain.close()
        reader, plain = await asyncio.open_connection("127.0.0.1", port)
        request = f"GET /events?room=r HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n\r\n"
        plain.write(request.encode())
        await reader.readuntil(b"joined")
        plain.close()
        await until(lambda: registry.idle)
        await asyncio.sleep(0.1)
        kinds = (Connection, Session, WebSocketProtocol)
        assert [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)] == []
    finally:
        gc.enable()
        server.close()
        for task in running:
            task.cancel()


async def test_a_write_that_fails_ends_its_connection_and_no_other() -> None:
    class Transport:
        def __init__(self, fails: bool) -> None:
            self.fails, self.aborted, self.written = fails, False, b""

        def write(self, chunk: bytes) -> None:
            if self.fails:
                raise RuntimeError("unable to perform operation on a closed handle")
            self.written += chunk

        def abort(self) -> None:
            self.aborted = True

    class Client(Connection):
        id = uuid4()  # type: ignore[assignment]
        pending: list[bytes] | None = None

    transports: list[Any] = [Transport(n == 1) for n in range(4)]
    clients: list[Any] = []
    for transport in transports:
        client = Client(Mock())
        client.transport = transport
        clients.append(client)
    writer = BatchWriter()
    writer.broadcast(clients, b"x")
    await asyncio.sleep(0.01)
    assert [transport.written for transport in transports] == [b"x", b"", b"x", b"x"]
    assert [transport.aborted for transport in transports] == [False, True, False, False]
