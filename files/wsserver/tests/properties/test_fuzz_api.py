# SPDX-License-Identifier: MIT
"""Requests of a backend with the right key that does all else wrong, for every operation of
docs/openapi.yaml. The worker answers as documented, and finds no fault in itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from support.ports import free_port
from support.redis_server import RedisServer
from support.requests import (
    ODD_WORDS,
    Ending,
    Header,
    answer,
    endings,
    faults,
    queries,
    repeated,
    request,
    status,
    words,
)
from support.worker import Worker

_KEY = b"the-key-of-the-server-API-has-32-characters-or-more"
_HOST, _AUTHORIZATION, _CLOSE = (b"Host", b"x"), (b"Authorization", b"Bearer " + _KEY), (b"Connection", b"close")
_PATHS: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parents[4] / "docs/openapi.yaml").read_text())[
    "paths"
]
_OPERATIONS = [(method, path) for path, item in _PATHS.items() for method in item if method in ("get", "post")]
_PARAMETERS: dict[bytes, list[bytes]] = {
    b"after": [b"alice", b"%00"],
    b"before": [b"1-1", b"1700000000000-42"],
    b"since": [b"1-1", b"0-0"],
    b"limit": [b"1", b"100", b"0", b"1.0", b"1_0", b"true"],
}
_MORE: dict[bytes, list[bytes]] = {
    b"Authorization": [b"Bearer " + _KEY, b"bearer x"],
    b"Idempotency-Key": [b"k", b"k" * 128, b"k" * 129],
    b"traceparent": [b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"00-x-y-zz"],
    b"Content-Encoding": [b"gzip", b"identity", b"br, gzip"],
    b"Content-Type": [b"application/json", b"multipart/form-data; boundary=x", b"text/plain; charset=nonsense"],
    b"Expect": [b"100-continue", b"x"],
    b"Host": [b"y", b"[::1", b"x:99999999"],
    b"Upgrade": [b"websocket", b"h2c"],
    b"X-Forwarded-For": [b"192.0.2.1"],
}

# Bodies.

_NAMES = [
    "room",
    "rooms",
    "data",
    "from",
    "messages",
    "id",
    "reason",
    "code",
    "user",
    "join",
    "publish",
    "expires_s",
    "x",
]
_texts = st.text(max_size=8) | st.sampled_from(
    ["r", "alice", "", "\0", "\ud83d", "x" * 129, "é", "*", "{sub}", "a b", "\u2028", "\x7f", "\U0010ffff"]
)
_numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 1008, 4000, 2**53, 2**64, -(2**63), 10**400])
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES) | _texts, inner, max_size=4),
    max_leaves=8,
)
_GOOD: dict[str, Any] = {
    "/v1/publish": {"room": "r", "data": {"text": "hello"}, "from": "bot"},
    "/v1/publish/batch": {"messages": [{"rooms": ["r", "s"], "data": 1, "from": "bot", "id": "i"}]},
    "/v1/users/{user}/disconnect": {"reason": "signed out", "code": 4000},
    "/v1/tickets": {"user": "alice", "join": ["*"], "publish": ["user:{sub}:*"], "expires_s": 60},
}


@st.composite
def _mutated(draw: st.DrawFn, path: str) -> bytes:
    """A good body with one value replaced, at any depth, or with one field more."""
    body = json.loads(json.dumps(_GOOD.get(path, {})))
    part = body
    while isinstance(part, dict | list) and part:
        key = draw(st.sampled_from(sorted(part) if isinstance(part, dict) else list(range(len(part)))))
        if isinstance(part[key], dict | list) and draw(st.booleans()):
            part = part[key]
        else:
            part[key] = draw(_json)
            break
    return json.dumps(body).encode()


def _bodies(path: str) -> st.SearchStrategy[bytes]:
    return st.one_of(
        _mutated(path),
        _mutated(path),
        _json.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=30),
        st.sampled_from(
            [b"", b"{", b"[" * 5000, b'{"room":"r","data":' + b"[" * 500 + b"]" * 500 + b"}", b"\xef\xbb\xbf{}"]
        ),
        st.sampled_from([b'{"room":"r","data":"\xff"}', b'{"room":"r","room":"s","data":1}', b"x" * 70_000]),
    )


# The names of the framings.
_WHOLE, _SHORT, _LONG, _CHUNKED, _BROKEN, _CUT, _BOTH, _NONE = range(8)


class Sent(NamedTuple):
    method: str
    path: str
    name: bytes
    query: bytes
    headers: list[Header]
    body: bytes
    framing: int = _WHOLE

    def request(self) -> bytes:
        chunked, length = (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"%d" % len(self.body))
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(self.body), self.body) if self.body else b"0\r\n\r\n"
        framing, body = {
            _WHOLE: ([length], self.body),
            _SHORT: ([(b"Content-Length", b"%d" % (len(self.body) + 5))], self.body),
            _LONG: ([(b"Content-Length", b"%d" % (len(self.body) // 2))], self.body),
            _CHUNKED: ([chunked], chunks),
            _BROKEN: ([chunked], b"zz\r\n" + self.body),
            _CUT: ([chunked], chunks[: len(chunks) // 2]),
            _BOTH: ([chunked, length], chunks),
            _NONE: ([], self.body),
        }[self.framing]
        before, _name, after = self.path.partition("{room}" if "{room}" in self.path else "{user}")
        target = before.encode() + (self.name if _name else b"") + after.encode() + self.query
        return request(self.method.upper().encode(), target, [*self.headers, *framing], body)


_names = st.sampled_from([b"r", b"team%3A7", b"alice", *ODD_WORDS]) | words
_sent = st.sampled_from(_OPERATIONS).flatmap(
    lambda operation: st.builds(
        Sent,
        st.just(operation[0]) | st.just(operation[0]) | st.sampled_from(["get", "post", "head", "put", "x", "trace"]),
        st.just(operation[1]),
        _names,
        st.just(b"") | queries(_PARAMETERS),
        repeated([_HOST, _AUTHORIZATION, _CLOSE], _MORE),
        _bodies(operation[1]),
        st.sampled_from([_WHOLE] * 6 + [_SHORT, _LONG, _CHUNKED, _BROKEN, _CUT, _BOTH, _NONE]),
    )
)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def worker(port: int) -> Iterator[Worker]:
    redis = RedisServer("no")
    redis.start()
    settings = {"WS_API_KEY": _KEY.decode(), "WS_API_PORT": str(port), "WS_HANDSHAKE_S": "1"}
    started = Worker(redis.url, WS_LOG_LEVEL="warning", **settings)
    asyncio.run(started.ready())
    yield started
    # Also those of the last example, whose client did not wait.
    assert not faults(started), faults(started)
    started.remove()
    redis.remove()


_KNOWN = [_HOST, _AUTHORIZATION, _CLOSE]


@given(_sent, endings)
@example(Sent("get", "/v1/rooms/{room}/presence", b"\xff", b"", _KNOWN, b""), "wait")
@example(Sent("get", "/v1/rooms/{room}/presence", b"r", b"?after=\xff", _KNOWN, b""), "wait")
@example(Sent("get", "/v1/rooms/{room}/presence", b"r", b"?after=%ff%ed%a0%bd", _KNOWN, b""), "wait")
@example(Sent("get", "/v1/rooms/{room}/history", b"%ed%a0%bd", b"", _KNOWN, b""), "wait")
@example(Sent("post", "/v1/publish", b"", b"", _KNOWN, b'{"room":"r","data":1}', _BROKEN), "wait")
@example(Sent("post", "/v1/publish", b"", b"", _KNOWN, b'{"room":"r","data":1}', _CUT), "half-close")
@example(Sent("post", "/v1/publish", b"", b"", _KNOWN, b'{"room":"r","data":1}', _SHORT), "half-close")
@example(Sent("post", "/v1/publish", b"", b"", _KNOWN, b'{"room":"r","data":1}', _SHORT), "reset")
@example(Sent("get", "/v1/stats", b"", b"", _KNOWN, b""), "reset")
@example(Sent("put", "/v1/tickets", b"", b"", [*_KNOWN, (b"Expect", b"\xff")], b""), "wait")
@example(Sent("post", "/v1/tickets", b"", b"", [*_KNOWN, (b"Expect", b"100-continue")], b"{}"), "reset")
def test_no_request_is_a_fault_of_the_worker(worker: Worker, port: int, sent: Sent, ending: Ending) -> None:
    received = answer(port, sent.request(), ending)
    code = status(received)
    assert code < 500, received
    # aiohttp itself answers what is no HTTP, in plain text.
    if sent.method in _PATHS[sent.path] and b"\r\nContent-Type: application/json" in received:
        # 404, 405: the name in the path has a slash.
        assert str(code) in _PATHS[sent.path][sent.method]["responses"] or code in (404, 405), received
    assert worker.process.poll() is None
    assert not faults(worker), faults(worker)


def test_good_requests_succeed(worker: Worker, port: int) -> None:
    """Else the test above would test refusals only."""
    for method, path in _OPERATIONS:
        body = json.dumps(_GOOD[path]).encode() if path in _GOOD else b""
        received = answer(port, Sent(method, path, b"r", b"", _KNOWN, body).request(), patience_s=20)
        assert status(received) in (200, 202), received
