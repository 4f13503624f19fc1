# SPDX-License-Identifier: MIT
"""The server API: requests of an application's own backend, over HTTP and with a key.

This module has the port: what the API needs from the worker.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from wsserver.protocol.events import PresencePage
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import Published
from wsserver.status import State, Status


class Operations(Protocol):
    """The worker, as the server API sees it.

    All but `state` raise BrokerError; for a publish, its future raises it.
    """

    @property
    def state(self) -> State:
        """The state of the worker.

        The API calls the other methods only if the worker is `ready`.
        """

    def status(self) -> Status: ...

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        """As `Broker.publish`; the future is done when a client would get its ack."""

    async def presence(self, room: str, after: str, limit: int) -> PresencePage:
        """Up to `limit` users of the room that follow `after`, in the order of their names."""

    async def history(
        self, room: str, before: Position | None, since: Position | None, limit: int
    ) -> tuple[list[Message], bool]:
        """Messages, oldest first, and whether more follow in the direction of the request.

        The last messages before a position, the first messages after one, or (both None) the
        newest.
        """

    async def issue_ticket(
        self, user: str, join: tuple[str, ...] | None, publish: tuple[str, ...] | None, expires_s: int | None
    ) -> str:
        """A ticket for one handshake. None means the default for a token without such a claim."""

    async def publish_control(self, payload: bytes) -> None:
        """As `Broker.publish_control`."""
