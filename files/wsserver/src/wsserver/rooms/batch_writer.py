# SPDX-License-Identifier: MIT
"""Frames for clients, collected during one turn of the event loop and written once per client at its end.

Clients of one room mostly have the same frames waiting: those are joined once, and the buffer is shared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from wsserver.telemetry import metrics


class Destination(Protocol):
    """Where frames go; `pending` belongs to the outbox: None, or the frames queued in this turn."""

    pending: list[bytes] | None
    write: Callable[[bytes], None]


class Outbox:
    def __init__(self) -> None:
        self._dirty: list[Destination] = []
        self._published: list[tuple[float, str]] = []
        self._scheduled = False

    def queue(self, destination: Destination, frame: bytes) -> None:
        if destination.pending is None:
            destination.pending = [frame]
            self._dirty.append(destination)
            self._schedule()
        else:
            destination.pending.append(frame)

    def broadcast(self, destinations: Iterable[Destination], frame: bytes) -> None:
        """As `queue` for each destination, without a call for each: this is the service's hottest loop."""
        dirty = self._dirty
        for destination in destinations:
            if destination.pending is None:
                destination.pending = [frame]
                dirty.append(destination)
            else:
                destination.pending.append(frame)
        self._schedule()

    def observe(self, published: float, trace_id: str = "") -> None:
        """Measure from `published` (Unix time of a message queued in this turn) to the end of this turn's writes.

        trace_id: that of a message that is traced, to be found from the measurement.
        """
        self._published.append((published, trace_id))

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        published, self._published = self._published, []
        frames: list[bytes] = []
        data = b""
        for destination in dirty:
            pending, destination.pending = destination.pending, None
            if not pending:
                continue  # flushed early, by a close
            if pending != frames:  # the frames are shared objects: equal lists compare by identity
                frames = pending
                data = pending[0] if len(pending) == 1 else b"".join(pending)
            destination.write(data)
        if published:
            now = time.time()
            for at, trace_id in published:
                exemplar = {"trace_id": trace_id} if trace_id else None
                metrics.PUBLISH_TO_DELIVER.observe(max(0.0, now - at), exemplar)
