# SPDX-License-Identifier: MIT
"""A server that sends what a test scripts, to test clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

WELCOME = {"type": "welcome", "user": "alice", "heartbeat_s": 25, "max_message_bytes": 65536, "expires": 2e9}


class Peer:
    """One accepted connection. `path` and `token` are from its handshake."""

    def __init__(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.connection = connection
        self.path = connection.request.path
        headers = connection.request.headers
        offered = headers.get("Sec-WebSocket-Protocol", "").removeprefix("bearer").removeprefix(", ")
        self.token = offered or headers.get("Authorization", "").removeprefix("Bearer ")

    async def send(self, type: str, **event: Any) -> None:
        await self.connection.send(json.dumps({"type": type, **event}))

    async def welcome(self, **changes: Any) -> None:
        await self.connection.send(json.dumps(WELCOME | changes))

    async def receive(self, type: str) -> dict[str, Any]:
        """The next command, which must be of this type; ignores the client's own pings."""
        while True:
            command: dict[str, Any] = json.loads(await asyncio.wait_for(self.connection.recv(), 20))
            if command["type"] != "ping" or type == "ping":
                assert command["type"] == type, command
                return command

    async def nothing(self, within_s: float) -> None:
        try:
            command = await asyncio.wait_for(self.connection.recv(), within_s)
        except TimeoutError:
            return
        raise AssertionError(f"the client said {command!r}")

    async def joined(
        self, room: str = "r", epoch: str = "7", seq: int = 0, recovered: bool = False, **more: Any
    ) -> None:
        await self.send("joined", room=room, epoch=epoch, seq=seq, recovered=recovered, **more)

    async def message(self, seq: int, room: str = "r", data: Any = None, **fields: Any) -> None:
        data = seq if data is None else data
        await self.send("message", room=room, seq=seq, **{"from": "bob"}, ts=1.0, data=data, **fields)

    async def closed(self) -> int:
        try:
            while True:
                await asyncio.wait_for(self.connection.recv(), 20)
        except ConnectionClosed:
            return self.connection.close_code or 0


class Scripted:
    """`refusals`: the statuses with which the next handshakes are refused."""

    def __init__(self) -> None:
        self.port = 0
        self.refusals: list[int] = []
        self._accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self._connections: list[ServerConnection] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def peer(self) -> Peer:
        """The next connection, before its welcome."""
        return await asyncio.wait_for(self._accepted.get(), 20)

    async def no_peer(self, within_s: float) -> None:
        """No client connects."""
        try:
            await asyncio.wait_for(self._accepted.get(), within_s)
        except TimeoutError:
            return
        raise AssertionError("a client connected")

    async def welcomed(self, **changes: Any) -> Peer:
        peer = await self.peer()
        await peer.welcome(**changes)
        return peer

    async def accept(self, connection: ServerConnection) -> None:
        self._connections.append(connection)
        await self._accepted.put(Peer(connection))
        await connection.wait_closed()

    def cut_all(self) -> None:
        for connection in self._connections:
            connection.transport.abort()

    @staticmethod
    def select(_connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return Subprotocol("bearer") if "bearer" in offered else None

    def refuse(self, connection: ServerConnection, _request: Request) -> Response | None:
        return connection.respond(HTTPStatus(self.refusals.pop(0)), "no") if self.refusals else None


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    script = Scripted()
    async with serve(
        script.accept,
        "127.0.0.1",
        0,
        process_request=script.refuse,
        select_subprotocol=script.select,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        script.port = next(iter(server.sockets)).getsockname()[1]
        yield script
        script.cut_all()
