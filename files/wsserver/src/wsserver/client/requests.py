# SPDX-License-Identifier: MIT
"""Pending requests about rooms: matches answers to them."""

from __future__ import annotations

import asyncio
from typing import Any

from wsserver.client.errors import Closed
from wsserver.client.room import Room
from wsserver.protocol.commands import History, Join, Leave, Presence
from wsserver.protocol.events import Error, HistoryPage, Joined, Left, PresencePage
from wsserver.runtime.tasks import fail

Question = Join | Leave | Presence | History
Answer = Joined | Left | PresencePage | HistoryPage
_ANSWERS: dict[type[Question], type[Answer]] = {
    Join: Joined,
    Leave: Left,
    Presence: PresencePage,
    History: HistoryPage,
}


class Request:
    """`joining`: the room of a join. `sent`: whether the request was sent and its answer is due."""

    __slots__ = ("answered", "joining", "question", "sent")

    def __init__(self, question: Question, joining: Room | None = None) -> None:
        self.question = question
        self.joining = joining
        self.answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.sent = False


class Requests:
    """Requests without an answer.

    The server answers the requests about one room in the order of sending.
    """

    def __init__(self) -> None:
        self._waiting: list[Request] = []

    @property
    def any(self) -> bool:
        return bool(self._waiting)

    def add(self, request: Request) -> None:
        """Add a request as the newest, also again after a temporary refusal."""
        if request in self._waiting:
            self._waiting.remove(request)
        self._waiting.append(request)

    def answer(self, event: Answer) -> Request | None:
        """The request that an event answers."""
        for request in self._waiting:
            if (
                request.sent
                and request.question.room == event.room
                and isinstance(event, _ANSWERS[type(request.question)])
            ):
                self._waiting.remove(request)
                if not request.answered.done():
                    request.answered.set_result(event)
                return request
        return None

    def refused(self, error: Error) -> Request | None:
        """The request that an error refers to. The caller sends it again, or drops it."""
        for request in self._waiting:
            if request.sent and request.question.room == error.room:
                request.sent = False
                return request
        return None

    def drop(self, request: Request, why: Exception) -> None:
        self._waiting.remove(request)
        fail(request.answered, why)

    def take_all(self) -> list[Request]:
        """Remove all requests; returns those with a waiting caller, to be sent on a new connection."""
        waiting, self._waiting = self._waiting, []
        return [request for request in waiting if not request.answered.done()]

    def end(self, why: Closed) -> None:
        for request in list(self._waiting):
            self.drop(request, why)
