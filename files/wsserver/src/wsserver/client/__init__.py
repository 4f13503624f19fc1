# SPDX-License-Identifier: MIT
"""A client that reconnects, resumes by `seq`, and repeats publishes without an acknowledgement.

async with Client("wss://ws.example.org/ws", token=token) as client:
    room = await client.join("lobby")
    await client.publish("lobby", {"text": "hello"})
    async for message in room:
        print(message.user, message.data)
"""

from wsserver.client.client import Client, Page, State
from wsserver.client.credentials import CredentialFactory
from wsserver.client.errors import Closed, JoinError, PublishError, ServerError
from wsserver.client.room import Message, Position, Room
from wsserver.protocol.events import Error, Event, Gap, MemberEvent, Reset

__all__ = [
    "Client",
    "Closed",
    "CredentialFactory",
    "Error",
    "Event",
    "Gap",
    "JoinError",
    "MemberEvent",
    "Message",
    "Page",
    "Position",
    "PublishError",
    "Reset",
    "Room",
    "ServerError",
    "State",
]
