# SPDX-License-Identifier: MIT
"""The worker, as the server API sees it: `wsserver.api.Operations` over the parts that do the work."""

from __future__ import annotations

from collections.abc import Callable

from wsserver.auth import issue_ticket
from wsserver.sessions.context import SessionContext
from wsserver.status import State, Status
from wsserver.worker.components import Components


class WorkerOperations:
    def __init__(self, status: Callable[[], Status], context: SessionContext, components: Components) -> None:
        self.status = status
        self.publish = context.publisher.publish
        self.presence = context.presence.page
        self.history = context.history.page
        self.publish_control = components.broker.publish_control
        self._tickets = components.tickets

    @property
    def state(self) -> State:
        status = self.status()
        # A worker that waits for the keys of clients' tokens serves backends.
        return "ready" if status.state == "starting" and status.broker.available else status.state

    async def issue_ticket(
        self, user: str, join: tuple[str, ...] | None, publish: tuple[str, ...] | None, expires_s: int | None
    ) -> str:
        return await issue_ticket(self._tickets, user, join, publish, expires_s)
