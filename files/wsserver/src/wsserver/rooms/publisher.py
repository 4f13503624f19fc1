# SPDX-License-Identifier: MIT
"""Publishes a message, from a client or the server API: traces the publish, and waits for Postgres
in durable rooms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from wsserver.errors import BrokerError
from wsserver.protocol.types import Position
from wsserver.rooms.broker import Broker, Published
from wsserver.telemetry.tracing import PublishSpan, Tracer


class Archive(Protocol):
    """The durable store, as the publisher sees it."""

    async def store(self, room: str, position: Position) -> None:
        """Return when the store has this message, which was just published. Raises BrokerError."""


class Publisher:
    """`archive` is Postgres, or None; `durable` says whether a room waits for Postgres."""

    def __init__(
        self, broker: Broker, archive: Archive | None, durable: Callable[[str], bool], tracer: Tracer | None
    ) -> None:
        self._broker = broker
        self._archive = archive
        self._durable = durable
        self._tracer = tracer

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        """As `Broker.publish`; the future is done when the publisher may get its ack.

        `trace`: the caller's traceparent.
        """
        span = self._tracer.publish(room, trace) if self._tracer is not None else None
        future = self._broker.publish(room, user, id, data, span.traceparent if span is not None else trace)
        if self._archive is not None and self._durable(room):
            future = asyncio.ensure_future(_stored(future, room, self._archive))
        if span is not None:
            future.add_done_callback(partial(_end, span))
        return future


async def _stored(future: asyncio.Future[Published], room: str, archive: Archive) -> Published:
    published = await future
    await archive.store(room, published.position)
    return published


def _end(span: PublishSpan, future: asyncio.Future[Published]) -> None:
    try:
        span.end(seq=future.result().position.seq)
    except BrokerError as exc:
        span.end(exc.code)
    except asyncio.CancelledError:
        span.end("cancelled")
    except Exception:
        span.end("internal")  # the caller that awaits the future reports it
