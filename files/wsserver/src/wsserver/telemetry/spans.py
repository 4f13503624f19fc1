# SPDX-License-Identifier: MIT
"""The two spans of a message: its publish, and its delivery to the members on one worker.

A span names the room, since a trace must show which room was slow. A span has no users, payloads,
publish ids or tokens: traces go to systems with other readers and another retention.
"""

from __future__ import annotations

import asyncio
import random

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from wsserver.telemetry.logs import log
from wsserver.telemetry.otlp import SpanExport
from wsserver.telemetry.tracing import PublishSpan

_propagator = TraceContextTextMapPropagator()


class OtlpTracer:
    """`endpoint`: the base URL of an OTLP/HTTP collector.

    `ratio`: the share of publishes to trace, 0 to 1.
    """

    def __init__(self, endpoint: str, ratio: float, instance: str) -> None:
        self._ratio = ratio
        self._export = SpanExport(endpoint, instance)
        self._spans = self._export.provider.get_tracer("wsserver")

    def publish(self, room: str, parent: str = "") -> PublishSpan | None:
        context = _context(parent) if parent else None
        if context is None:
            # The SDK's sampler takes twenty times as long to reject a publish.
            if random.random() >= self._ratio:
                return None
            context = Context()
        elif not _is_sampled(context):
            return None
        attributes = {**_about(room), "messaging.operation.type": "send"}
        return _Publish(self._spans.start_span("publish", context, SpanKind.PRODUCER, attributes))

    def deliver(self, trace: str, room: str, seq: int, members: int) -> str:
        context = _context(trace)
        if context is None or not _is_sampled(context):
            return ""
        attributes = {**_about(room), "messaging.operation.type": "process", "ws.seq": seq, "ws.members": members}
        span = self._spans.start_span("deliver", context, SpanKind.CONSUMER, attributes)
        # The batch writer scheduled its flush earlier: when this call runs, the frames are written.
        asyncio.get_running_loop().call_soon(span.end)
        return format_trace_id(span.get_span_context().trace_id)

    async def stop(self) -> None:
        await self._export.stop()


class _Publish:
    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, error: str = "", seq: int | None = None) -> None:
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
            log.info(
                "traced_publish_failed", error=error, trace_id=format_trace_id(self._span.get_span_context().trace_id)
            )
        if seq is not None:
            self._span.set_attribute("ws.seq", seq)
        self._span.end()


def _about(room: str) -> dict[str, str | int]:
    return {"messaging.system": "ws-server", "messaging.destination.name": room}


def _context(traceparent: str) -> Context | None:
    """The context of a traceparent; None if the text is none."""
    context = _propagator.extract({"traceparent": traceparent}, Context())
    return context if get_current_span(context).get_span_context().is_valid else None


def _is_sampled(context: Context) -> bool:
    return get_current_span(context).get_span_context().trace_flags.sampled
