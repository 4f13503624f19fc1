# SPDX-License-Identifier: MIT
"""Requests for `/ws` and `/events` from a client with a valid token that does all else wrong:
repeated and missing headers, odd parameters. The worker answers, and finds no fault in itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.redis_server import RedisServer
from support.requests import Ending, Header, answer, endings, faults, queries, repeated, request, status
from support.worker import ORIGIN, SECRET, Worker

from wsserver.auth import mint

_TOKEN = mint(SECRET, "fuzz", 86400).encode()
_HOST = (b"Host", b"example.org")
_AUTHORIZATION = (b"Authorization", b"Bearer " + _TOKEN)
_HANDSHAKE: list[Header] = [
    _HOST,
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"Sec-WebSocket-Version", b"13"),
]
_MORE: dict[bytes, list[bytes]] = {
    b"Authorization": [b"Bearer " + _TOKEN, b"bearer x", b"Basic eDp5"],
    b"Sec-WebSocket-Protocol": [b"bearer", b"bearer, " + _TOKEN, b"bearer, bearer", b","],
    b"Sec-WebSocket-Extensions": [b"permessage-deflate", b'x; y="z"', b";;"],
    b"Origin": [ORIGIN.encode(), b"https://evil.example", b"null"],
    b"Cookie": [b"session=" + _TOKEN, b"session=x; session=y", b";=;"],
    b"Last-Event-ID": [b"1-1", b"1700000000000-0"],
    b"X-Real-IP": [b"192.0.2.1", b"::1", b"1.2.3.4, 5.6.7.8"],
    b"Accept": [
        b"text/event-stream",
        b"application/openmetrics-text; version=x",
        b"text/plain;version=1.0.0;escaping=y",
    ],
    b"Content-Length": [b"0", b"5", b"-1"],
    b"Transfer-Encoding": [b"chunked"],
    b"Access-Control-Request-Method": [b"GET", b"PUT"],
    b"Expect": [b"100-continue"],
    b"traceparent": [b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"],
}
_PARAMETERS: dict[bytes, list[bytes]] = {
    b"room": [b"r", b"team%3A7"],
    b"last_event_id": [b"1-1", b"1700000000000-0"],
    b"members": [b"1", b""],
    b"ticket": [b"none", b"3q2-7wRx0pVbVtK6nG0hYAzE8sUo1cLQmD5fTjXvB9k"],
}
_METHODS = [b"GET"] * 12 + [b"HEAD", b"OPTIONS", b"POST", b"get", b"\xff", b"CONNECT"]
_WS = st.tuples(st.just(b"/ws"), queries(_PARAMETERS), repeated([*_HANDSHAKE, _AUTHORIZATION], _MORE))
_EVENTS = st.tuples(
    st.just(b"/events"),
    queries(_PARAMETERS) | st.just(b"?room=r"),
    repeated([_HOST, _AUTHORIZATION], _MORE),
)
_PAGES = st.tuples(
    st.sampled_from([b"/healthz", b"/readyz", b"/metrics", b"/nothing", b"//events", b"http://x/events"]),
    queries(_PARAMETERS),
    repeated([_HOST], _MORE),
)
# A cookie without a listed origin must not open a stream.
_COOKIES = st.tuples(
    st.just(b"/events"), st.just(b"?room=r"), repeated([_HOST, (b"Cookie", b"session=" + _TOKEN)], _MORE)
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    redis = RedisServer("no")
    redis.start()
    started = Worker(redis.url, WS_LOG_LEVEL="warning", WS_AUTH_COOKIE="session")
    asyncio.run(started.ready())
    yield started
    # Also those of the last example, whose client did not wait.
    assert not faults(started), faults(started)
    started.remove()
    redis.remove()


def _events(*headers: Header) -> tuple[bytes, bytes, list[Header]]:
    return b"/events", b"?room=r", [_HOST, _AUTHORIZATION, *headers]


@given(
    _WS | _EVENTS | _EVENTS | _PAGES | _COOKIES,
    st.sampled_from(_METHODS),
    st.sampled_from([b"", b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"\x00"]),
    endings,
)
@example(_events((b"Last-Event-ID", b"1-1"), (b"Last-Event-ID", b"1-2")), b"GET", b"", "wait")
@example(_events((b"Last-Event-ID", b"1-" + b"9" * 5000)), b"GET", b"", "wait")
@example(_events((b"Origin", ORIGIN.encode()), (b"Origin", ORIGIN.encode())), b"GET", b"", "wait")
@example((b"/events", b"?room=%ed%a0%bd", [_HOST, _AUTHORIZATION]), b"GET", b"", "wait")
@example((b"/events", b"?room=%ff&last_event_id=%EF%BC%91-1", [_HOST, _AUTHORIZATION]), b"GET", b"", "wait")
def test_no_request_is_a_fault_of_the_worker(
    worker: Worker, wanted: tuple[bytes, bytes, list[Header]], method: bytes, rest: bytes, ending: Ending
) -> None:
    path, query, headers = wanted
    received = answer(worker.port, request(method, path + query, headers, rest), ending)
    assert status(received) < 500, received
    assert worker.process.poll() is None
    assert not faults(worker), faults(worker)


def test_these_requests_open_streams_and_connections(worker: Worker) -> None:
    """Else the test above would test refusals only."""
    for target, headers, code in (
        (b"/events?room=r", [_HOST, _AUTHORIZATION], 200),
        (b"/ws", [*_HANDSHAKE, _AUTHORIZATION], 101),
        (b"/events?room=r", [_HOST, (b"Cookie", b"session=" + _TOKEN), (b"Origin", ORIGIN.encode())], 200),
    ):
        assert status(answer(worker.port, request(b"GET", target, headers), patience_s=20)) == code
