# SPDX-License-Identifier: MIT
"""A server with rooms that keeps the promise, except for one fault."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from support.scripted import WELCOME

# The message of each room that has the fault.
_NTH = 5


class Liar:
    """`lie`: the fault of one message of each room.

    "forget": it is acknowledged and dropped. "skip": it has a seq, but no client gets it. "double":
    it is published twice. "repeat": it is sent twice. "late": it is sent after the next message.
    "": no fault.
    """

    def __init__(self, lie: str) -> None:
        self.url = ""
        self._lie = lie
        self._published: Counter[str] = Counter()
        self._seqs: Counter[str] = Counter()
        self._logs: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self._members: dict[str, set[ServerConnection]] = defaultdict(set)
        self._late: dict[str, str] = {}

    async def converse(self, client: ServerConnection) -> None:
        try:
            await client.send(json.dumps(WELCOME))
            async for frame in client:
                command = json.loads(frame)
                if command["type"] == "join":
                    await self._join(client, **command)
                elif command["type"] == "publish":
                    await self._publish(client, **command)
        except ConnectionClosed:
            pass
        finally:
            for members in self._members.values():
                members.discard(client)

    async def _join(
        self, client: ServerConnection, room: str, since: dict[str, Any] | None = None, **_rest: Any
    ) -> None:
        seq = since["seq"] if since else self._seqs[room]
        joined = {"type": "joined", "room": room, "epoch": "1", "seq": seq, "recovered": bool(since)}
        await client.send(json.dumps(joined))
        for known, message in list(self._logs[room]):
            if known > seq:
                await client.send(message)
        self._members[room].add(client)

    async def _publish(self, client: ServerConnection, room: str, id: str, data: Any, **_rest: Any) -> None:
        self._published[room] += 1
        lie = self._lie if self._published[room] == _NTH else ""
        seq = self._seqs[room] + 1
        if lie != "forget":
            self._seqs[room] = seq
        await client.send(json.dumps({"type": "ack", "room": room, "id": id, "seq": seq}))
        if lie in ("forget", "skip"):
            return
        message = self._enter(room, seq, data)
        if lie == "late":
            self._late[room] = message
            return
        await self._send(room, message)
        if lie == "repeat":
            await self._send(room, message)
        elif lie == "double":
            self._seqs[room] += 1
            await self._send(room, self._enter(room, self._seqs[room], data))
        if room in self._late:
            await self._send(room, self._late.pop(room))

    def _enter(self, room: str, seq: int, data: Any) -> str:
        event = {"type": "message", "room": room, "seq": seq, "from": "user", "ts": 1.0, "data": data}
        self._logs[room].append((seq, json.dumps(event)))
        return self._logs[room][-1][1]

    async def _send(self, room: str, message: str) -> None:
        await asyncio.gather(*(member.send(message) for member in self._members[room]), return_exceptions=True)


@asynccontextmanager
async def liar(lie: str) -> AsyncIterator[Liar]:
    one = Liar(lie)
    async with serve(one.converse, "127.0.0.1", 0, ping_interval=None, close_timeout=1) as server:
        one.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"
        yield one
