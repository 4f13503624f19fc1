# SPDX-License-Identifier: MIT
"""Collects frames during one turn of the event loop, and writes once per client at its end.

Most clients of a room wait for the same frames: they share one tuple of frames, the writer joins
these once, and the clients share the buffer. A message to thousands of clients takes several turns,
so that other work of the event loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from wsserver.telemetry import metrics

# Writes in one turn of the event loop: some 10 ms.
_WRITES_PER_TURN = 500


class Writable(Protocol):
    """Takes frames; `pending` belongs to the batch writer: None, or the frames queued in this turn."""

    pending: tuple[bytes, ...] | None
    write: Callable[[bytes], None]


class BatchWriter:
    def __init__(self) -> None:
        self._dirty: list[Writable] = []
        self._written = 0  # clients, since the start
        # Published at, trace, and the value of `_written` at which this message is written.
        self._published: deque[tuple[float, str, int]] = deque()
        self._scheduled = False

    def queue(self, client: Writable, frame: bytes) -> None:
        if client.pending is None:
            client.pending = (frame,)
            self._dirty.append(client)
            self._schedule()
        else:
            client.pending += (frame,)

    def broadcast(self, clients: Iterable[Writable], frame: bytes) -> None:
        """As `queue` for each client, without a call for each: this is the service's hottest loop."""
        dirty = self._dirty
        alone = (frame,)
        waited: tuple[bytes, ...] = ()
        waiting: tuple[bytes, ...] = alone  # `waited` and the frame
        for client in clients:
            pending = client.pending
            if pending is None:
                client.pending = alone
                dirty.append(client)
            elif pending is waited:
                client.pending = waiting
            else:
                waited = pending
                client.pending = waiting = (*pending, frame)
        self._schedule()

    def observe(self, published: float, trace_id: str = "") -> None:
        """Measure from `published` (Unix time of a message queued in this turn) to the last of its
        writes.

        `trace_id`: the trace of that message, if it has one. The measurement then names the trace.
        """
        self._published.append((published, trace_id, self._written + len(self._dirty)))

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty[:_WRITES_PER_TURN], self._dirty[_WRITES_PER_TURN:]
        frames: tuple[bytes, ...] = ()
        chunk = b""
        for client in dirty:
            pending, client.pending = client.pending, None
            if not pending:
                continue  # a close has flushed its frames already
            if pending != frames:  # the frames are shared objects: equal lists compare by identity
                frames = pending
                chunk = pending[0] if len(pending) == 1 else b"".join(pending)
            client.write(chunk)
        self._written += len(dirty)
        if self._dirty:
            self._schedule()
        now = time.time()
        while self._published and self._published[0][2] <= self._written:
            at, trace_id, _written = self._published.popleft()
            exemplar = {"trace_id": trace_id} if trace_id else None
            metrics.PUBLISH_TO_DELIVER.observe(max(0.0, now - at), exemplar)
