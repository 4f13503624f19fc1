# SPDX-License-Identifier: MIT
"""Pending requests about rooms: matches answers to them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from wsserver.client.errors import Closed
from wsserver.client.room import Room
from wsserver.protocol.codec import BadMessage
from wsserver.protocol.commands import Command, History, Join, Leave, Presence
from wsserver.protocol.events import Error, HistoryPage, Joined, Left, PresencePage
from wsserver.protocol.json_codec import JsonCodec
from wsserver.runtime.tasks import fail

# The deadline of an answer, on one connection. A server that limits the client's rate answers late.
ANSWER_S = 60.0

Question = Join | Leave | Presence | History
Answer = Joined | Left | PresencePage | HistoryPage
_ANSWERS: dict[type[Question], type[Answer]] = {
    Join: Joined,
    Leave: Left,
    Presence: PresencePage,
    History: HistoryPage,
}
_CODEC = JsonCodec()


def encoded(value: Any) -> bytes:
    """The JSON of a value. Raises TypeError, and ValueError for a text with half a surrogate pair."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise ValueError("a text has half of a surrogate pair, such as half of an emoji") from None


def checked(command: Command) -> bytes:
    """The frame of a command. Raises ValueError for a command that every server refuses."""
    frame = encoded(command)
    try:
        _CODEC.decode(frame)
    except BadMessage as exc:
        raise ValueError(str(exc)) from None
    return frame


def deadline() -> asyncio.Timeout:
    return asyncio.timeout(ANSWER_S)


def no_answer() -> Error:
    return Error("timeout", f"no answer within {ANSWER_S:g} s")


class Request:
    """`joining`: the room of a join. `asked`: whether a caller waits. `sent`: whether the request
    was sent and its answer is due. `id`: identifies the request, and its answer.
    """

    __slots__ = ("answered", "asked", "forgiven", "id", "joining", "question", "sent", "sent_at")

    def __init__(self, question: Question, joining: Room | None = None, asked: bool = False) -> None:
        self.id = uuid.uuid4().hex
        self.question = question
        self.joining = joining
        self.asked = asked
        self.answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.sent = False
        self.sent_at = 0.0
        self.forgiven = False

    def send(self, send: Callable[[Command], None]) -> None:
        self.sent, self.forgiven = True, False
        self.sent_at = asyncio.get_running_loop().time()
        send(msgspec.structs.replace(self.question, id=self.id))


class Requests:
    """Requests without an answer.

    The server repeats the id of a request. A server of an older release does not, and answers the
    requests about one room in the order of sending.
    """

    def __init__(self) -> None:
        self._waiting: list[Request] = []
        self._server_repeats_ids = False

    @property
    def any(self) -> bool:
        return bool(self._waiting)

    def add(self, request: Request) -> None:
        """Add a request as the newest, also again after a temporary refusal."""
        self.remove(request)
        self._waiting.append(request)

    def remove(self, request: Request) -> None:
        if request in self._waiting:
            self._waiting.remove(request)

    def answer(self, event: Answer) -> Request | None:
        """The request that an event answers."""
        request = self._find(
            event.id,
            lambda each: each.question.room == event.room and isinstance(event, _ANSWERS[type(each.question)]),
        )
        if request is not None:
            self._waiting.remove(request)
            if not request.answered.done():
                request.answered.set_result(event)
        return request

    def refused(self, error: Error) -> Request | None:
        """The request that an error refers to. The caller sends it again, or drops it."""
        request = self._find(error.id, lambda each: each.question.room == error.room)
        if request is not None:
            request.sent = False
        return request

    def _find(self, id: str | None, fits: Callable[[Request], bool]) -> Request | None:
        sent = (request for request in self._waiting if request.sent)
        if id is not None:
            request = next((request for request in sent if request.id == id), None)
            self._server_repeats_ids = self._server_repeats_ids or request is not None
            return request
        return None if self._server_repeats_ids else next(filter(fits, sent), None)

    def overdue(self, late: bool) -> list[Request]:
        """The requests whose answer is overdue.

        `late`: this process was paused itself, so the answers may be here already.
        """
        now = asyncio.get_running_loop().time()
        found = [request for request in self._waiting if request.sent and now - request.sent_at >= ANSWER_S]
        if not late:
            return found
        forgiven = [request for request in found if not request.forgiven]
        for request in forgiven:
            request.forgiven, request.sent_at = True, now
        return [request for request in found if request not in forgiven]

    def drop(self, request: Request, why: Exception) -> None:
        self._waiting.remove(request)
        fail(request.answered, why)

    def take_all(self) -> list[Request]:
        """Remove all requests; returns those with a waiting caller, to be sent on a new connection."""
        waiting, self._waiting = self._waiting, []
        self._server_repeats_ids = False
        return [request for request in waiting if not request.answered.done()]

    def end(self, why: Closed) -> None:
        for request in list(self._waiting):
            self.drop(request, why)
