# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Rooms with the `websockets` library's asyncio server: plain_server.py PORT HEARTBEAT_S."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import defaultdict
from http import HTTPStatus
from typing import Any

import jwt
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.http11 import Request, Response

SECRET = os.environ["JWT_SECRET"]
rooms: dict[str, set[ServerConnection]] = defaultdict(set)


def authenticate(connection: ServerConnection, request: Request) -> Response | None:
    try:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        jwt.decode(token, SECRET, algorithms=["HS256"], options={"require": ["sub", "exp"]})
    except (LookupError, jwt.PyJWTError):
        return connection.respond(HTTPStatus.UNAUTHORIZED, "no valid token\n")
    return None


async def talk(connection: ServerConnection) -> None:
    joined = set()
    try:
        async for text in connection:
            command = json.loads(text)
            room = command["room"]
            if command["type"] == "join":
                joined.add(room)
                rooms[room].add(connection)
                await connection.send(json.dumps({"type": "joined", "room": room}))
            else:
                broadcast(rooms[room], json.dumps({"type": "message", "room": room, "data": command["data"]}))
    finally:
        for room in joined:
            rooms[room].discard(connection)


async def main(port: int, heartbeat_s: float) -> None:
    options: dict[str, Any] = {
        "ping_interval": heartbeat_s,
        "ping_timeout": None,
        "compression": None,
        "backlog": 65535,
    }
    async with serve(talk, "127.0.0.1", port, process_request=authenticate, **options) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
