# SPDX-License-Identifier: MIT
"""Decides when to read from a client: only as fast as commands are carried out, answers are read,
and limits allow.
"""

from __future__ import annotations

import time
from typing import Protocol

from wsserver.limits.connection import ConnectionLimits
from wsserver.protocol.events import Error
from wsserver.telemetry import metrics

# Publishes of one client that may wait for the broker, by number and by bytes; beyond that its next
# frames wait in the kernel.
_PUBLISHES_UNDER_WAY = 256
_BYTES_UNDER_WAY = 1 << 20


class ClientTransport(Protocol):
    """The connection, as the session sees it."""

    def write(self, chunk: bytes) -> None: ...
    def hold_reading(self, hold: bool) -> None: ...

    def throttle(self) -> None:
        """Call `session.resume_if_paid()` about once a second until it returns true."""

    def renewed(self) -> None:
        """The session has a new token, with another expiry."""


class FlowControl:
    """Holds commands and reading while the client is paused or throttled, or has a command or too
    many publishes under way.

    busy: a command that takes time is under way. crowded: many commands wait for their turn. Call
    `hold` after a change of these.
    """

    __slots__ = (
        "_bytes_paid",
        "_bytes_under_way",
        "_frames_paid",
        "_limits",
        "_open",
        "_throttled",
        "_transport",
        "_under_way",
        "busy",
        "crowded",
        "paused",
        "paused_at",
    )

    def __init__(self, transport: ClientTransport, limits: ConnectionLimits) -> None:
        self.busy = False
        self.crowded = False
        self.paused = False
        self.paused_at = 0.0
        self._transport = transport
        self._limits = limits
        self._open = True
        self._throttled = False
        self._under_way = 0
        self._bytes_under_way = 0
        self._frames_paid = 0.0
        self._bytes_paid = 0.0

    @property
    def blocked(self) -> bool:
        """Whether the next command must wait."""
        return (
            self.paused
            or self._throttled
            or self.busy
            or self._under_way >= _PUBLISHES_UNDER_WAY
            or self._bytes_under_way >= _BYTES_UNDER_WAY
        )

    def hold(self) -> None:
        """Stop reading or read again, as the state requires."""
        self._transport.hold_reading(self._open and (self.crowded or self.blocked))

    def close(self) -> None:
        """Never hold again; the connection decides about reading."""
        self._open = False

    # Commands and publishes.

    def publish_started(self, size: int) -> None:
        self._under_way += 1
        self._bytes_under_way += size
        if self.blocked:
            self.hold()

    def publish_ended(self, size: int) -> None:
        """Call `hold` after the answer."""
        self._under_way -= 1
        self._bytes_under_way -= size

    # A client that does not read.

    def pause(self) -> None:
        self.paused = True
        self.paused_at = time.monotonic()

    def resume(self) -> None:
        self.paused = False

    # Rate limits.

    def charge(self, frames: int, size: int) -> Error | None:
        """Count frames from the client, and bytes from it or of an answer to it.

        Returns an error for the client if the limits are exceeded; the caller then calls `throttle`.
        """
        limits, now = self._limits, time.monotonic()
        # This runs for every message.
        if frames:
            self._frames_paid = limits.frames.spend(self._frames_paid, now, frames)
        if size:
            self._bytes_paid = limits.bytes.spend(self._bytes_paid, now, size)
        if self._throttled or not limits.frames.late_s(max(self._frames_paid, self._bytes_paid), now):
            return None
        late_frames = limits.frames.late_s(self._frames_paid, now)
        late_bytes = limits.bytes.late_s(self._bytes_paid, now)
        if late_frames >= late_bytes:
            metrics.LIMITED.labels("connection_frames").inc()
            text = f"more than {limits.frames.per_s:g} frames a second: the next ones wait"
        else:
            metrics.LIMITED.labels("connection_bytes").inc()
            text = f"more than {limits.bytes.per_s:g} bytes a second: the next ones wait"
        return Error("rate_limited", text, retry_after_ms=int(1000 * max(late_frames, late_bytes)) + 1)

    def throttle(self) -> None:
        """Hold the client until the limits allow more: see `paid`."""
        self._throttled = True
        self._transport.throttle()
        self.hold()

    def paid(self) -> bool:
        """End the throttling if the limits allow more; returns whether they do."""
        limits, now = self._limits, time.monotonic()
        if limits.frames.late_s(self._frames_paid, now) or limits.bytes.late_s(self._bytes_paid, now):
            return False
        self._throttled = False
        return True
