# SPDX-License-Identifier: MIT
"""Random bytes for a handshake: the worker answers cleanly or not at all, and logs none of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import upgrade_request
from support.worker import ORIGIN, SECRET, Worker

from wsserver.auth import mint

_TOKEN = mint(SECRET, "fuzz", 86400)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker("unix:///nowhere", WS_BROKER="memory", WS_LOG_LEVEL="warning")
    asyncio.run(started.ready())
    yield started
    started.remove()


_values = st.one_of(
    st.none(),
    st.text(alphabet=st.characters(max_codepoint=255), max_size=30),
    st.sampled_from(
        ["", ",", "websocket", "Upgrade", "bearer", f"bearer, {_TOKEN}", f"Bearer {_TOKEN}", ORIGIN, "::1"]
    ),
    st.sampled_from(["x" * 8000, "bearer," * 500, "Bearer " + "W1tb" * 1500 + ".e30.e30", "%" * 100, "a=b; " * 200]),
)
_names = st.sampled_from(
    [
        "Host",
        "Upgrade",
        "Connection",
        "Sec_WebSocket_Key",
        "Sec_WebSocket_Version",
        "Sec_WebSocket_Protocol",
        "Sec_WebSocket_Extensions",
        "Authorization",
        "Origin",
        "Cookie",
        "X_Real_IP",
        "Last_Event_ID",
        "traceparent",
    ]
)
_paths = st.one_of(
    st.sampled_from(
        ["/ws", "/ws", "/ws?", "/ws?ticket=x", "/healthz", "/readyz", "/metrics", "//", "*", "http://x/ws"]
    ),
    st.sampled_from(["/events", "/events?room=r", "/events?room=%ff", "/events?room=a&room=b", "/events?" + "&" * 50]),
    st.text(alphabet=st.characters(max_codepoint=255), max_size=20),
    st.just("/" + "a" * 9000),
)
_requests = st.builds(
    lambda path, headers, rest: upgrade_request(path, **headers) + rest,
    _paths,
    st.dictionaries(_names, _values, max_size=4),
    st.binary(max_size=10),
)
_damaged = st.builds(
    lambda request, place, damage: request[: place % len(request)] + damage + request[place % len(request) :],
    _requests,
    st.integers(0, 10_000),
    st.binary(min_size=1, max_size=3) | st.sampled_from([b"\r\n", b"\r\n\r\n", b"\0"]),
)


@given(st.binary(max_size=200) | _requests | _damaged, st.booleans())
def test_any_handshake_is_answered_or_cut(worker: Worker, data: bytes, half_close: bool) -> None:
    answer = b""
    with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as client, contextlib.suppress(OSError):
        client.sendall(data)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        else:
            client.settimeout(0.05)  # the worker may wait for the rest of a request
        while b"\r\n\r\n" not in answer and (more := client.recv(65536)):
            answer += more
    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer
    assert not answer.startswith(b"HTTP/1.1 5") or answer.startswith(b"HTTP/1.1 505 "), answer
    assert worker.process.poll() is None
    assert worker.output() == ""
