# SPDX-License-Identifier: MIT
"""Publishing over the API: one message to one room, or many messages to many rooms."""

from __future__ import annotations

import asyncio
import secrets
from typing import NamedTuple

from aiohttp import web
from msgspec import Raw, Struct

from wsserver.api import Operations, bodies
from wsserver.api.bodies import BATCH_MAX, BatchBody, BatchMessage, PublishBody
from wsserver.api.problem import ErrorBody, bad_request, broker_text, from_broker, too_large
from wsserver.errors import BrokerError
from wsserver.protocol.json_codec import NESTING_MAX, nested_too_deeply
from wsserver.rooms.broker import Published

# How many publishes of one batch wait for the broker at a time, so that other publishes get their
# turn.
_UNDER_WAY = 100
_UNDER_WAY_BYTES = 2**20


class Landed(Struct, frozen=True):
    """The position of a message in its room's log.

    `repeat`: an earlier request with the same key put it there.
    """

    room: str
    epoch: str
    seq: int
    repeat: bool


class BatchLanded(Struct, frozen=True):
    """`message`: its index in the request."""

    message: int
    room: str
    epoch: str
    seq: int
    repeat: bool


class BatchFailed(Struct, frozen=True):
    message: int
    room: str
    error: ErrorBody


class BatchResult(Struct, frozen=True):
    """One result per message and room, in their order. `failed` counts the errors among them."""

    failed: int
    results: list[BatchLanded | BatchFailed]


class _Publish(NamedTuple):
    message: int
    room: str
    user: str
    id: str
    data: bytes


class Publishing:
    def __init__(self, operations: Operations, max_data_bytes: int) -> None:
        self._operations = operations
        self._max_data_bytes = max_data_bytes

    async def one(self, request: web.Request, body: bytes) -> Landed:
        """Raises Problem."""
        wanted = bodies.decode(body, PublishBody)
        room = bodies.check_room(wanted.room, "room")
        user = bodies.check_user(wanted.user, "from")
        data = self._data(wanted.data, "data")
        id = bodies.idempotency_key(request) or _random_id()
        [outcome] = await _settled([self._operations.publish(room, user, id, data, bodies.traceparent(request))])
        if isinstance(outcome, BrokerError):
            raise from_broker(outcome)
        return Landed(room, str(outcome.position.epoch), outcome.position.seq, outcome.repeat)

    async def batch(self, request: web.Request, body: bytes) -> BatchResult:
        """Publish a batch. If any part of it is invalid, nothing is published. Raises Problem."""
        publishes = self._checked(body, bodies.idempotency_key(request))
        trace = bodies.traceparent(request)
        outcomes: list[Published | BrokerError] = []
        under_way: list[asyncio.Future[Published]] = []
        size = 0
        for number, publish in enumerate(publishes, 1):
            under_way.append(self._operations.publish(publish.room, publish.user, publish.id, publish.data, trace))
            size += len(publish.data)
            if len(under_way) == _UNDER_WAY or size >= _UNDER_WAY_BYTES or number == len(publishes):
                outcomes += await _settled(under_way)
                under_way, size = [], 0
        results = [_result(publish, outcome) for publish, outcome in zip(publishes, outcomes, strict=True)]
        return BatchResult(sum(isinstance(result, BatchFailed) for result in results), results)

    def _checked(self, body: bytes, key: str | None) -> list[_Publish]:
        publishes: list[_Publish] = []
        for index, raw in enumerate(bodies.decode(body, BatchBody).messages):
            at = f"messages[{index}]"
            message = bodies.decode(raw, BatchMessage, at)
            user = bodies.check_user(message.user, f"{at}.from")
            data = self._data(message.data, f"{at}.data")
            id = message.id or _derived_id(key, index)
            for number, room in enumerate(message.rooms):
                checked = bodies.check_room(room, f"{at}.rooms[{number}]")
                publishes.append(_Publish(index, checked, user, id, data))
            if len(publishes) > BATCH_MAX:
                raise bad_request(f"messages: at most {BATCH_MAX} in all, each counted once for each of its rooms")
        return publishes

    def _data(self, data: Raw, where: str) -> bytes:
        if len(data) > self._max_data_bytes:
            raise too_large(f"{where}: at most {self._max_data_bytes} bytes, as in a client's message")
        checked = bytes(data)
        if nested_too_deeply(checked):
            raise bad_request(f"{where}: nested more than {NESTING_MAX} deep")
        return checked


async def _settled(futures: list[asyncio.Future[Published]]) -> list[Published | BrokerError]:
    """Wait for the publishes. Cancelling this call does not cancel the publishes."""
    await asyncio.wait(futures)
    outcomes: list[Published | BrokerError] = []
    for future in futures:
        try:
            outcomes.append(future.result())
        except BrokerError as exc:
            outcomes.append(exc)
    return outcomes


def _result(publish: _Publish, outcome: Published | BrokerError) -> BatchLanded | BatchFailed:
    if isinstance(outcome, BrokerError):
        return BatchFailed(publish.message, publish.room, ErrorBody(outcome.code, broker_text(outcome)))
    epoch, seq = outcome.position
    return BatchLanded(publish.message, publish.room, str(epoch), seq, outcome.repeat)


def _random_id() -> str:
    return secrets.token_hex(16)


def _derived_id(key: str | None, index: int) -> str:
    # A header cannot have a line feed, so no other request has the same key.
    return _random_id() if key is None else f"{key}\n{index}"
