# SPDX-License-Identifier: MIT
"""The port for traces: a publish in one process and its deliveries in others are one trace.

Tracing is off unless the settings name a collector. Then there is no tracer, callers only test for
None, and the worker imports neither OpenTelemetry's tracing nor its exporter. (redis-py imports the
metrics half of OpenTelemetry's SDK if it is installed: 2 MB, and no work.)
"""

from __future__ import annotations

from typing import Protocol


class PublishSpan(Protocol):
    """The span of a publish. `traceparent` travels with the message."""

    traceparent: str

    def end(self, error: str = "", seq: int | None = None) -> None:
        """End the span: the publish got the code of an error, or a seq."""


class Tracer(Protocol):
    def publish(self, room: str, parent: str = "") -> PublishSpan | None:
        """Begin the span of a publish now; None if the publish is not traced.

        `parent`: the W3C traceparent of the caller, which decides whether to trace. Without a
        readable parent, chance decides.
        """

    def deliver(self, trace: str, room: str, seq: int, members: int) -> str:
        """Record the delivery of a message to `members` live members: from now until this turn's
        writes are done.

        Call once per message and worker, after the batch writer has the frames. `trace`: the
        message's traceparent, ignored if it is unreadable. Returns the trace's id, or "".
        """

    async def stop(self) -> None:
        """Send what is still queued, for at most two seconds. Spans that end later are not sent."""
