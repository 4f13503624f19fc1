# SPDX-License-Identifier: MIT
"""An OTLP/HTTP collector: it decodes spans, and fails or hangs on command."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Received(NamedTuple):
    span: Span
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.span.parent_span_id.hex()


class Collector:
    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.paths: set[str] = set()
        self.requests = 0
        self.status = 200
        self._answers = threading.Event()
        self._answers.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[Received]:
        return [received for received in self.spans if received.span.name == name]

    def hang(self) -> None:
        """Accept requests, and leave them unanswered."""
        self._answers.clear()

    def remove(self) -> None:
        self._answers.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(collector) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.requests += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._answers.wait()
                if collector.status == 200:
                    collector.paths.add(self.path)
                    collector._take(body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Tests have no log."""

        return Handler

    def _take(self, body: bytes) -> None:
        self.spans += received(ExportTraceServiceRequest.FromString(body))


def received(request: ExportTraceServiceRequest) -> list[Received]:
    return [
        Received(span, _values(span.attributes), _values(group.resource.attributes))
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
