# SPDX-License-Identifier: MIT
"""Plain HTTP answers beside the WebSocket upgrade, on the same port."""

from __future__ import annotations

from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.http11 import Response

from wsserver.telemetry import metrics


def text(status: HTTPStatus, body: str, **headers: str) -> Response:
    """`headers` in Python spelling: Retry_After="1"."""
    return _response(status, f"{body}\n".encode(), "text/plain; charset=utf-8", headers)


def head(response: Response) -> Response:
    """The answer to HEAD, where GET has `response`."""
    return Response(response.status_code, response.reason_phrase, response.headers)


def preflight(origin: str) -> Response:
    """The permission for a page of `origin` to request an event stream with these headers."""
    response = _response(HTTPStatus.NO_CONTENT, b"", None, {})
    readable_by(response, origin)
    for name, value in (
        ("Access-Control-Allow-Methods", "GET"),
        ("Access-Control-Allow-Headers", "Authorization, Last-Event-ID, Cache-Control"),
        ("Access-Control-Max-Age", "600"),
    ):
        response.headers[name] = value
    return response


def readable_by(response: Response, origin: str) -> None:
    """Let a page of `origin` read the response."""
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Allow-Credentials"] = "true"
    response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    response.headers["Vary"] = "Origin"


def page(body: bytes, content_type: str) -> Response:
    return _response(HTTPStatus.OK, body, f"{content_type}; charset=utf-8", {"Cache_Control": "no-store"})


def metrics_page(accept: str) -> Response:
    return _response(HTTPStatus.OK, *metrics.exposition(accept), {})


def _response(status: HTTPStatus, body: bytes, content_type: str | None, extra: dict[str, str]) -> Response:
    headers = Headers()
    if content_type is not None:
        headers["Content-Type"] = content_type
        headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    for name, value in extra.items():
        headers[name.replace("_", "-")] = value
    return Response(status.value, status.phrase, headers, body)
