# SPDX-License-Identifier: MIT
"""The server API: what an application's own backend asks of a worker, over HTTP and with a key.

This is what the API asks of the worker in turn.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from wsserver.protocol.events import PresencePage
from wsserver.protocol.types import Message, Position
from wsserver.rooms.broker import Published
from wsserver.status import State, Status


class Operations(Protocol):
    """The worker, as the server API sees it. What reads or writes raises BrokerError, in a publish its future does."""

    @property
    def state(self) -> State:
        """Only a worker that is `ready` is asked for more than its status."""

    def status(self) -> Status: ...

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        """As `Broker.publish`; done when a client of the room's kind would have its ack."""

    async def presence(self, room: str, after: str, limit: int) -> PresencePage:
        """Up to `limit` users of the room in the order of their names, from the first that follows `after`."""

    async def history(
        self, room: str, before: Position | None, since: Position | None, limit: int
    ) -> tuple[list[Message], bool]:
        """Messages, oldest first, and whether more follow in the direction of the question.

        The last ones before a position, the first ones after one, or (both None) simply the last ones.
        """

    async def issue_ticket(
        self, user: str, join: tuple[str, ...] | None, publish: tuple[str, ...] | None, expires_s: int | None
    ) -> str:
        """A ticket for one handshake; None stands for what a token without such a claim gets."""

    async def publish_control(self, payload: bytes) -> None:
        """As `Broker.publish_control`."""
