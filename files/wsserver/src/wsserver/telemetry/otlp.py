# SPDX-License-Identifier: MIT
"""Sends spans to a collector: a bounded queue, and a thread that sends from the queue over HTTP.

A slow or missing collector costs only spans, which are counted. It costs no memory and no waiting.
The log has a line when the collector fails, and a line when it is back.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from prometheus_client import Counter

from wsserver import __version__
from wsserver.telemetry.logs import log

_QUEUE_SPANS = 2048
# While the thread encodes a batch (0.1 ms a span), the event loop shares the interpreter with the
# thread.
_BATCH_SPANS = 32
_DELAY_MS = 1000
_EXPORT_TIMEOUT_S = 5.0
_STOP_S = 2.0

SPANS = Counter("ws_trace_spans", "Spans of traced publishes and deliveries, by outcome.", ["outcome"])
_SENT, _FAILED, _QUEUE_FULL = (SPANS.labels(outcome) for outcome in ("sent", "failed", "queue_full"))


class SpanExport:
    """Sends the spans of `provider` to the collector.

    `endpoint`: its base URL, without /v1/traces.
    """

    def __init__(self, endpoint: str, instance: str) -> None:
        resource = Resource.create(
            {"service.name": "ws-server", "service.instance.id": instance, "service.version": __version__}
        )
        exporter = _Reporting(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT_S))
        self._queue = _Queue(exporter)
        # The tracer samples already; and a handler at exit would wait for 30 s.
        self.provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self.provider.add_span_processor(self._queue)

    async def stop(self) -> None:
        # A thread of an executor would delay the end of the process.
        stopping = threading.Thread(target=self.provider.shutdown, daemon=True)
        stopping.start()
        deadline = time.monotonic() + _STOP_S
        while stopping.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread raises no asyncio.Event
            await asyncio.sleep(0.02)
        if self._queue.waiting:
            log.warning("traces_left_behind", spans=self._queue.waiting)


class _Queue(SpanProcessor):
    """Drops spans before the SDK's queue is full: the SDK would log a line for those that it drops."""

    def __init__(self, exporter: _Reporting) -> None:
        self._exporter = exporter
        self._ended = 0
        self._batches = BatchSpanProcessor(exporter, _QUEUE_SPANS, _DELAY_MS, _BATCH_SPANS)

    @property
    def waiting(self) -> int:
        return self._ended - self._exporter.finished

    def on_end(self, span: ReadableSpan) -> None:
        if self.waiting >= _QUEUE_SPANS:
            _QUEUE_FULL.inc()
            return
        self._ended += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class _Reporting(SpanExporter):
    """Counts spans that were sent and lost, in the exporter's thread, and logs each change."""

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        self.finished = 0
        self._exporter = exporter
        self._failed = 0  # spans since the last success
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_complaint)
        self._context = contextvars.copy_context()  # has the fields of every log line

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        _complaint.text = ""
        result = self._exporter.export(spans)
        self.finished += len(spans)
        if result is SpanExportResult.SUCCESS:
            _SENT.inc(len(spans))
            if self._failed:
                self._context.run(log.info, "traces_flow_again", spans_lost=self._failed)
            self._failed = 0
        else:
            _FAILED.inc(len(spans))
            if not self._failed:
                self._context.run(log.warning, "traces_not_sent", why=_complaint.text)
            self._failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _FirstComplaint(logging.Filter):
    """Keeps the first line of the SDK's exporter and drops all lines: the exporter repeats them on
    each failure.
    """

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.text = self.text or record.getMessage()
        return False


_complaint = _FirstComplaint()
