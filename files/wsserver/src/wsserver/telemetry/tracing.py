# SPDX-License-Identifier: MIT
"""A publish in one process and its deliveries in others as one trace; off unless a collector is named.

Off costs its users a truth test: there is no tracer, and neither OpenTelemetry's tracing nor its exporter is imported.
(redis-py imports the metrics half of its SDK wherever that is installed: 2 MB, and no work.)
"""

from __future__ import annotations

from typing import Protocol

from wsserver.settings import Settings


class PublishSpan(Protocol):
    """A traced publish under way. `traceparent` travels with its message."""

    traceparent: str

    def end(self, error: str = "", seq: int | None = None) -> None:
        """The publish was answered: with the code of an error, or with the seq where it landed."""


class Tracer(Protocol):
    def publish(self, room: str, parent: str = "") -> PublishSpan | None:
        """Begin the span of a publish, now; None if this one is not traced.

        parent: the W3C traceparent of whoever asked for the publish. It decides whether to trace; without one,
        or with one that cannot be read, chance does.
        """

    def deliver(self, trace: str, room: str, seq: int, members: int) -> str:
        """Record the delivery of a message to `members` live members: from now until this turn's writes are done.

        Call once per message and worker, after the batch writer has the frames. trace: the message's traceparent;
        an unreadable one is ignored. Returns the trace's id, or "".
        """

    async def stop(self) -> None:
        """Send what is still queued, for at most two seconds. Spans that end later are not sent."""


def start(settings: Settings) -> Tracer | None:
    """This worker's tracer, or None without an OTLP endpoint. Once per process, after the logs were set up."""
    if settings.otlp_endpoint is None:
        return None
    from wsserver.telemetry.spans import OtlpTracer

    return OtlpTracer(settings.otlp_endpoint, settings.trace_ratio, settings.instance or str(settings.port))
