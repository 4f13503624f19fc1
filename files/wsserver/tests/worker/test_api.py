# SPDX-License-Identifier: MIT
"""The server API over TCP, with the memory broker behind it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import jsonschema
import pytest
import yaml
from aiohttp import ClientSession
from structlog.testing import capture_logs
from support.ports import free_port
from support.wait import until
from support.worker import SECRET

from wsserver.api.server import Api
from wsserver.archive.archiver import NotArchived
from wsserver.archive.history import History
from wsserver.cluster import control_messages
from wsserver.cluster.control_messages import Disconnect
from wsserver.errors import BrokerError, BrokerFull, BrokerUnavailable, OutcomeUnknown
from wsserver.protocol.events import PresenceMember, PresencePage
from wsserver.protocol.types import Message, Position
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.broker import Published
from wsserver.rooms.hub import Hub
from wsserver.settings import Settings
from wsserver.status import ArchiveStatus, BrokerStatus, State, Status
from wsserver.storage.memory.broker import MemoryBroker
from wsserver.telemetry import metrics

KEY = "the-key-of-the-server-API-has-32-characters-or-more"
OPENAPI = yaml.safe_load((Path(__file__).parents[4] / "docs/openapi.yaml").read_text())
STATUS = Status("1.2.3", 1, "80", 1.7e9, 60.5, "ready", [], 3, 1, 0, 2, BrokerStatus(True), ArchiveStatus(True, 7, 0.2))


class Backend:
    """The port of the API: a real broker, and stubs that record calls."""

    def __init__(self) -> None:
        self.room_log = 5000
        self.broker = MemoryBroker(self.room_log)
        self.state: State = "ready"
        self.members: list[str] = []
        self.tickets: list[tuple[Any, ...]] = []
        self.control_payloads: list[bytes] = []
        self.traces: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.hold: asyncio.Event | None = None

    def status(self) -> Status:
        return STATUS

    def publish(self, room: str, user: str, id: str, data: bytes, trace: str = "") -> asyncio.Future[Published]:
        self.traces.append(trace)
        if self.hold is not None:
            return asyncio.ensure_future(self._held(self.hold, room, user, id, data))
        if room in self.fails:
            future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
            future.set_exception(self.fails[room])
            return future
        return self.broker.publish(room, user, id, data, trace)

    async def _held(self, hold: asyncio.Event, *publish: Any) -> Published:
        await hold.wait()
        return await self.broker.publish(*publish)

    async def presence(self, room: str, after: str, limit: int) -> PresencePage:
        if room in self.fails:
            raise self.fails[room]
        members = sorted(member for member in self.members if member > after)
        page = [PresenceMember(member, 1) for member in members[:limit]]
        return PresencePage(room, page, len(self.members), len(members) > limit)

    async def history(
        self, room: str, before: Position | None, since: Position | None, limit: int
    ) -> tuple[list[Message], bool]:
        messages = await self.broker.read(room, since or Position(0, 0), self.room_log)
        messages = [message for message in messages if before is None or message.position < before]
        return (messages[:limit] if since else messages[-limit:]), len(messages) > limit

    async def issue_ticket(
        self, user: str, join: tuple[str, ...] | None, publish: tuple[str, ...] | None, expires_s: int | None
    ) -> str:
        self.tickets.append((user, join, publish, expires_s))
        return "a-secret-ticket"

    async def publish_control(self, payload: bytes) -> None:
        await self.broker.publish_control(payload)

    async def published(self, room: str = "r") -> list[tuple[str, bytes]]:
        log = await self.broker.read(room, Position(0, 0), self.room_log)
        assert [message.position.seq for message in log] == list(range(1, len(log) + 1))
        return [(message.user, message.data) for message in log]


class Caller:
    """The application's own backend."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.session = ClientSession(headers={"Authorization": f"Bearer {KEY}"})

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """`body`: bytes, or a value for JSON. `headers`: names with underscores."""
        status, answer, _headers = await self.ask_for_all(method, path, body, **headers)
        return status, answer

    async def ask_for_all(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = aiohttp.client.URL(self.url + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=named) as response:
            assert response.headers["Content-Type"] == "application/json"
            assert response.headers["Cache-Control"] == "no-store"
            answer = await response.json()
            check_documented(method, path, response.status, answer)
            return response.status, answer, response.headers

    async def publish(self, body: Any, **headers: str) -> tuple[int, Any]:
        return await self.ask("POST", "/v1/publish", body, **headers)

    async def batch(self, body: Any, **headers: str) -> tuple[int, Any]:
        return await self.ask("POST", "/v1/publish/batch", body, **headers)

    async def raw(self, request: bytes) -> tuple[int, bytes]:
        """Status and the whole answer of a connection that the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(), 30)
        finally:
            writer.close()
        return (int(answer.split(b" ", 2)[1]) if answer else 0), answer


def head(method: str, path: str, *lines: str, key: str | None = KEY) -> bytes:
    every = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *lines]
    if key is not None:
        every.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*every, "", ""]).encode()


@pytest.fixture
def make_api() -> Callable[..., Api]:
    def make(backend: Backend, **settings: Any) -> Api:
        settings = {"api_key": KEY, "jwt_secret": SECRET, "api_port": free_port(), **settings}
        return Api(Settings(**settings), backend)

    return make


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def api(backend: Backend, make_api: Callable[..., Api]) -> AsyncIterator[Caller]:
    port = free_port()
    api = make_api(backend, api_port=port, max_message_bytes=1024, handshake_s=1)
    running = asyncio.create_task(
        backend.broker.run(
            Hub(backend.broker, History(backend.broker, None), BatchWriter()), backend.control_payloads.append
        )
    )
    await api.start()
    caller = Caller(port)
    yield caller
    await caller.session.close()
    await api.stop()
    running.cancel()


# Publish.


async def test_a_publish_returns_its_position(api: Caller, backend: Backend) -> None:
    status, first = await api.publish({"room": "r", "data": {"text": "hello"}})
    assert status == 200
    epoch = str((await backend.broker.head("r")).epoch)
    assert first == {"room": "r", "epoch": epoch, "seq": 1, "repeat": False}
    _, second = await api.publish({"room": "r", "data": None, "from": "alice"})
    assert second == {"room": "r", "epoch": epoch, "seq": 2, "repeat": False}
    assert await backend.published() == [("server", b'{"text": "hello"}'), ("alice", b"null")]


DATA = [
    b'{"b":1, "a" : [1.0,1e999,-0,12345678901234567890],"b":2}',
    b'"\\u00e9\\ud83d\\ude00 \xc3\xa9\xf0\x9f\x98\x80 \\u0000 \\/ /"',
    b"[ ]",
    b"1.10",
    b'{"deep":' + b"[" * 127 + b"]" * 127 + b"}",
    b'"two\\nlines"',
    b"[1,\n\t2\r\n]",
]


@pytest.mark.parametrize("data", DATA)
async def test_data_passes_byte_for_byte(api: Caller, backend: Backend, data: bytes) -> None:
    assert (await api.publish(b'{"room":"r","data":  ' + data + b' ,"from":"a"}'))[0] == 200
    assert (await api.batch(b'{"messages":[{"data":' + data + b',"rooms":["r"]}]}'))[0] == 200
    assert await backend.published() == [("a", data), ("server", data)]
    async with api.session.get(f"{api.url}/v1/rooms/r/history") as response:
        assert (await response.read()).count(b'"data":' + data + b"}") == 2


async def test_a_repeated_key_returns_the_first_publish(api: Caller, backend: Backend) -> None:
    _, first = await api.publish({"room": "r", "data": 1}, Idempotency_Key="k")
    _, again = await api.publish({"room": "r", "data": 2}, Idempotency_Key="k")
    assert again == {**first, "repeat": True}
    at_once = await asyncio.gather(*(api.publish({"room": "q", "data": 1}, Idempotency_Key="k") for _ in range(10)))
    assert sorted(answer["repeat"] for _, answer in at_once) == [False, *[True] * 9]
    assert {answer["seq"] for _, answer in at_once} == {1}
    _, other_user = await api.publish({"room": "r", "data": 3, "from": "alice"}, Idempotency_Key="k")
    assert (other_user["seq"], other_user["repeat"]) == (2, False)
    for _ in range(2):
        assert (await api.publish({"room": "r", "data": 4}))[1]["repeat"] is False
    assert [data for _, data in await backend.published()] == [b"1", b"3", b"4", b"4"]


@pytest.mark.parametrize(("key", "status"), [("", 400), ("k", 200), ("k" * 128, 200), ("k" * 129, 400), ("é", 400)])
async def test_valid_idempotency_keys(api: Caller, key: str, status: int) -> None:
    got, answer = await api.publish({"room": "r", "data": 1}, Idempotency_Key=key)
    assert got == status
    assert status == 200 or "Idempotency-Key" in answer["error"]["message"]


async def test_two_idempotency_keys_are_refused(api: Caller) -> None:
    body = b'{"room":"r","data":1}'
    lines = (f"Content-Length: {len(body)}", "Idempotency-Key: a", "Idempotency-Key: b")
    assert (await api.raw(head("POST", "/v1/publish", *lines) + body))[0] == 400


async def test_a_trace_goes_with_its_message(api: Caller, backend: Backend) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for given in (trace, "nonsense", trace + "-x"):
        await api.publish({"room": "r", "data": 1}, traceparent=given)
    await api.batch({"messages": [{"rooms": ["r"], "data": 1}]}, traceparent=trace)
    await api.publish({"room": "r", "data": 1})
    assert backend.traces == [trace, "", "", trace, ""]


# Many at once.


async def test_many_messages_to_many_rooms_in_order(api: Caller, backend: Backend) -> None:
    messages = [{"rooms": ["r", "q"] if n % 10 == 0 else ["r"], "data": n} for n in range(300)]
    messages[7]["from"] = "alice"
    status, answer = await api.batch({"messages": messages})
    assert (status, answer["failed"]) == (200, 0)
    results = answer["results"]
    assert [(result["message"], result["room"]) for result in results] == [
        (n, room) for n, message in enumerate(messages) for room in message["rooms"]
    ]
    assert [result["seq"] for result in results if result["room"] == "r"] == list(range(1, 301))
    assert [result["seq"] for result in results if result["room"] == "q"] == list(range(1, 31))
    assert [json.loads(data) for _, data in await backend.published("r")] == list(range(300))
    assert [json.loads(data) for _, data in await backend.published("q")] == list(range(0, 300, 10))
    assert [user for user, _ in await backend.published("r")].index("alice") == 7


async def test_a_repeated_batch_publishes_what_is_missing(api: Caller, backend: Backend) -> None:
    messages: list[dict[str, Any]] = [{"rooms": ["a", "b", "c"], "data": 0}, {"rooms": ["a"], "data": 1, "id": "mine"}]
    backend.fails = {"b": OutcomeUnknown("the connection broke"), "c": BrokerFull("Redis is full")}
    status, first = await api.batch({"messages": messages}, Idempotency_Key="k")
    assert (status, first["failed"]) == (200, 2)
    assert [result.get("error", {}).get("code") for result in first["results"]] == [
        None,
        "outcome_unknown",
        "broker_full",
        None,
    ]
    assert "same Idempotency-Key" in first["results"][1]["error"]["message"]
    backend.fails = {}
    _, again = await api.batch({"messages": messages}, Idempotency_Key="k")
    assert (again["failed"], [result["repeat"] for result in again["results"]]) == (0, [True, False, False, True])
    _, single = await api.publish({"room": "a", "data": 2}, Idempotency_Key="mine")
    assert single["repeat"] is True, "an item's id and a publish's key are the same thing"
    _, single = await api.publish({"room": "a", "data": 2}, Idempotency_Key="k")
    assert single["repeat"] is False
    for _ in range(2):
        _, fresh = await api.batch({"messages": messages[:1]})
        assert [result["repeat"] for result in fresh["results"]] == [False] * 3


async def test_a_batch_with_a_fault_publishes_nothing(api: Caller, backend: Backend) -> None:
    good = {"rooms": ["r"], "data": 1}
    faults: list[tuple[Any, int, str]] = [
        ({"rooms": ["r", "a b"], "data": 1}, 400, "messages[2].rooms[1]"),
        ({"rooms": [], "data": 1}, 400, "messages[2].rooms"),
        ({"room": "r", "data": 1}, 400, "messages[2]: Object contains unknown field `room`; known are rooms, data"),
        ({"rooms": ["r"]}, 400, "messages[2]: Object missing required field `data`"),
        ({"rooms": ["r"], "data": 1, "from": "a\nb"}, 400, "messages[2].from"),
        ({"rooms": ["r"], "data": 1, "id": ""}, 400, "messages[2].id"),
        ({"rooms": ["r"], "data": "x" * 1023}, 413, "messages[2].data"),
        (17, 400, "messages[2]"),
    ]
    for fault, status, where in faults:
        got, answer = await api.batch({"messages": [good, good, fault, good]})
        assert (got, where in answer["error"]["message"]) == (status, True), answer
    assert await backend.published() == []


async def test_the_limits_of_a_batch(api: Caller, backend: Backend) -> None:
    one = {"rooms": ["r"], "data": 1}
    for too_many in ([one] * 1001, [{"rooms": ["r"] * 1001, "data": 1}], [one, {"rooms": ["r"] * 1000, "data": 1}]):
        status, answer = await api.batch({"messages": too_many})
        assert (status, "1000" in answer["error"]["message"]) == (400, True)
    assert (await api.batch({"messages": []}))[0] == 400
    assert await backend.published() == []
    status, answer = await api.batch({"messages": [one] * 1000})
    assert (status, len(answer["results"])) == (200, 1000)
    status, answer = await api.batch({"messages": [{"rooms": ["q"] * 999, "data": 1}, one]})
    assert (status, len(answer["results"])) == (200, 1000)
    body = json.dumps({"messages": [one]}).encode()
    limit = 10 * 2**20
    assert (await api.batch(body.ljust(limit)))[0] == 200
    assert (await api.batch(body.ljust(limit + 1)))[0] == 413


async def test_the_limit_of_a_message(api: Caller, backend: Backend) -> None:
    for publish in (
        lambda data: api.publish({"room": "r" * 128, "data": data, "from": "u" * 128}, Idempotency_Key="k" * 128),
        lambda data: api.batch({"messages": [{"rooms": ["r"], "data": data}]}),
    ):
        assert (await publish("x" * 1022))[0] == 200
        status, answer = await publish("x" * 1023)
        assert (status, answer["error"]["code"]) == (413, "too_large")
        assert "data: at most 1024 bytes" in answer["error"]["message"]
    # The rest of a body has its own limit, however it is escaped.
    escaped = b'{"room":"' + b"\\ud83d\\ude00" * 128 + b'","from":"' + b"\\u0061" * 128
    escaped += b'","data":"' + b"x" * 1022 + b'"}'
    assert (await api.publish(escaped))[0] == 200
    body = b'{"room":"s","data":1}'
    assert (await api.publish(body.ljust(1024 + 65536)))[0] == 200
    assert (await api.publish(body.ljust(1024 + 65536 + 1)))[0] == 413
    assert await backend.published("s") == [("server", b"1")]


# Errors.


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (BrokerUnavailable("away"), 503, "unavailable"),
        (OutcomeUnknown("the connection broke"), 504, "outcome_unknown"),
        (NotArchived("not in Postgres yet; repeat with the same id"), 504, "not_archived"),
        (BrokerFull("Redis is full"), 507, "broker_full"),
        (BrokerError("Redis says no"), 502, "broker_error"),
        (ZeroDivisionError("secret"), 500, "internal"),
    ],
)
async def test_a_failing_broker(api: Caller, backend: Backend, failure: Exception, status: int, code: str) -> None:
    backend.fails = {"r": failure}
    for method, path, body in (
        ("POST", "/v1/publish", {"room": "r", "data": 1}),
        ("GET", "/v1/rooms/r/presence", None),
    ):
        with capture_logs():
            got, answer, headers = await api.ask_for_all(method, path, body)
        assert (got, answer["error"]["code"]) == (status, code)
        assert ("Retry-After" in headers) == (status == 503)
        assert ("same Idempotency-Key" in answer["error"]["message"]) == (code == "outcome_unknown")
        assert "secret" not in json.dumps(answer)
    assert (await api.publish({"room": "q", "data": 1}))[0] == 200


@pytest.mark.parametrize("state", ["starting", "broker_unavailable"])
async def test_a_worker_that_is_not_ready(api: Caller, backend: Backend, state: State) -> None:
    backend.state = state
    for method, path, body in REQUESTS:
        status, answer, headers = await api.ask_for_all(method, path, body)
        if path == "/v1/stats":
            assert status == 200
            continue
        assert (status, answer["error"]["code"]) == (503, "unavailable")
        assert (headers["Retry-After"], headers["Connection"]) == ("1", "close")
    assert await backend.published() == []
    assert backend.tickets == []
    backend.state = "ready"
    assert (await api.publish({"room": "r", "data": 1}))[0] == 200


@pytest.mark.parametrize("state", ["draining", "drained"])
async def test_a_worker_that_sends_clients_away_still_serves_backends(
    api: Caller, backend: Backend, state: State
) -> None:
    backend.state = state
    assert (await api.publish({"room": "r", "data": 1}))[0] == 200
    assert (await api.ask("GET", "/v1/rooms/r/presence"))[0] == 200


REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/publish", {"room": "r", "data": 1}),
    ("POST", "/v1/publish/batch", {"messages": [{"rooms": ["r"], "data": 1}]}),
    ("GET", "/v1/rooms/r/presence", None),
    ("GET", "/v1/rooms/r/history", None),
    ("POST", "/v1/users/alice/disconnect", None),
    ("POST", "/v1/tickets", {"user": "alice"}),
    ("GET", "/v1/stats", None),
]


async def test_without_the_key_every_request_is_refused(api: Caller, backend: Backend) -> None:
    bearers = ["", KEY, f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer  {KEY}", f"Basic {KEY}", f"Bearer {KEY}é"]
    for method, path, body in [*REQUESTS, ("GET", "/v1/nothing", None), ("DELETE", "/v1/publish", None)]:
        for bearer in bearers:
            status, answer, headers = await api.ask_for_all(method, path, body, Authorization=bearer)
            assert (status, answer["error"]["code"], headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")
        for raw in (head(method, path, key=None), head(method, path, f"Authorization: Bearer {KEY}")):
            assert (await api.raw(raw))[0] == 401, "none, or two of them"
    assert await backend.published() == []
    backend.state = "draining"
    assert (await api.ask("GET", "/v1/stats", Authorization="Bearer x"))[0] == 401
    for scheme in ("bearer", "BEARER"):  # schemes are compared without case (RFC 9110)
        assert (await api.ask("GET", "/v1/stats", Authorization=f"{scheme} {KEY}"))[0] == 200


def own_address() -> str:
    """The address of this machine's network. Asks the kernel, and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        return str(sock.getsockname()[0])


@pytest.mark.parametrize(
    ("clients", "status"),
    [("", 403), ("192.0.2.7,198.51.100.0/24", 403), ("192.0.2.7,{own}", 200), ("0.0.0.0/1,128.0.0.0/1", 200)],
)
async def test_only_listed_addresses_may_use_the_api(
    backend: Backend, make_api: Callable[..., Api], clients: str, status: int
) -> None:
    own = own_address()
    assert not own.startswith("127.")
    port = free_port()
    api = make_api(backend, api_port=port, api_listen_address=["0.0.0.0"], api_clients=clients.format(own=own))
    await api.start()
    caller = Caller(port)
    try:
        assert (await caller.ask("GET", "/v1/stats"))[0] == 200, "loopback is always let in"
        caller.url = f"http://{own}:{port}"
        for method, path, body in REQUESTS if status == 403 else [("GET", "/v1/stats", None)]:
            assert (await caller.ask(method, path, body))[0] == status
    finally:
        await caller.session.close()
        await api.stop()


async def test_unknown_paths_and_methods(api: Caller) -> None:
    for path in ("/", "/v1", "/v1/publish/", "/v1/rooms//presence", "/v1/rooms/a/b/presence", "/v2/publish", "/v1/%ff"):
        status, answer = await api.ask("GET", path)
        assert (status, answer["error"]["code"]) == (404, "not_found")
    for method, path, allowed in (
        ("GET", "/v1/publish", "POST"),
        ("DELETE", "/v1/tickets", "POST"),
        ("POST", "/v1/stats", "GET"),
        ("PUT", "/v1/rooms/r/history", "GET"),
    ):
        status, answer, headers = await api.ask_for_all(method, path)
        assert (status, answer["error"]["code"], headers["Allow"]) == (405, "method_not_allowed", allowed)
    assert (await api.raw(head("HEAD", "/v1/stats")))[0] == 405


BAD_BODIES: list[tuple[str, bytes, str]] = [
    ("/v1/publish", b"", "not JSON"),
    ("/v1/publish", b"{", "not JSON"),
    ("/v1/publish", b'{"room":"r","data":1}x', "not JSON"),
    ("/v1/publish", b'{"room":"r","data":01}', "not JSON"),
    ("/v1/publish", b'{"room":"r","data":NaN}', "not JSON"),
    ("/v1/publish", b'{"room":"\\ud800","data":1}', "not JSON"),
    ("/v1/publish", b'{"room":"r","data":"\\ud800"}', "not JSON"),
    ("/v1/publish", b"[]", "Expected `object`, got `array`"),
    ("/v1/publish", b'{"room":"r","data":"\xff"}', "not UTF-8"),
    ("/v1/publish", b'{"room":"\xed\xa0\x80","data":1}', "not UTF-8"),
    ("/v1/publish", b'{"room":"r","data":' + b"[" * 30000 + b"]" * 30000 + b"}", "nested too deeply"),
    ("/v1/publish", b'{"room":"r","data":' + b"[" * 129 + b"]" * 129 + b"}", "data: nested more than 128 deep"),
    ("/v1/publish", b'{"data":1}', "missing required field `room`"),
    ("/v1/publish", b'{"room":"r"}', "missing required field `data`"),
    ("/v1/publish", b'{"room":7,"data":1}', "room: Expected `str`, got `int`"),
    ("/v1/publish", b'{"room":"","data":1}', "room: a room's name has 1 to 128"),
    ("/v1/publish", b'{"room":"a b","data":1}', "room: a room's name has 1 to 128"),
    ("/v1/publish", b'{"room":"' + b"r" * 129 + b'","data":1}', "room: a room's name has 1 to 128"),
    ("/v1/publish", b'{"room":"r","data":1,"from":""}', "from: a user's name has 1 to 128"),
    ("/v1/publish", b'{"room":"r","data":1,"from":"' + b"u" * 129 + b'"}', "from: a user's name has 1 to 128"),
    ("/v1/publish", b'{"room":"r","data":1,"from":null}', "from: Expected `str`, got `null`"),
    ("/v1/publish", b'{"room":"r","data":1,"form":"a"}', "unknown field `form`; known are room, data, from"),
    ("/v1/publish/batch", b"{}", "missing required field `messages`"),
    ("/v1/publish/batch", b'{"messages":[' + b"[" * 30000 + b"]" * 30000 + b"]}", "nested too deeply"),
    (
        "/v1/publish/batch",
        b'{"messages":[{"rooms":["r"],"data":' + b"[" * 129 + b"]" * 129 + b"}]}",
        "messages[0].data: nested more than 128 deep",
    ),
    ("/v1/tickets", b"{}", "missing required field `user`"),
    ("/v1/tickets", b'{"user":"a\\u0007"}', "user: a user's name has 1 to 128"),
    ("/v1/tickets", b'{"user":"a","join":"*"}', "join: Expected `array | null`, got `str`"),
    ("/v1/tickets", b'{"user":"a","join":["a\\u0007b"]}', "join must be a list of at most 64 patterns"),
    ("/v1/tickets", b'{"user":"a","publish":[""]}', "publish must be a list of at most 64 patterns"),
    ("/v1/tickets", b'{"user":"a","expires_s":0}', "expires_s: Expected `int` >= 1"),
    ("/v1/tickets", b'{"user":"a","expires_s":2592001}', "expires_s: Expected `int` <= 2592000"),
    ("/v1/tickets", b'{"user":"a","expire_s":60}', "unknown field `expire_s`"),
    ("/v1/users/a/disconnect", b'{"code":1006}', "code: 1000, 1001, 1008, or 4000 to 4999"),
    ("/v1/users/a/disconnect", b'{"code":5000}', "code: 1000, 1001, 1008, or 4000 to 4999"),
    ("/v1/users/a/disconnect", b'{"code":3999}', "code: 1000, 1001, 1008, or 4000 to 4999"),
    ("/v1/users/a/disconnect", b'{"code":"1008"}', "code: Expected `int`, got `str`"),
    ("/v1/users/a/disconnect", b'{"reason":"' + "é".encode() * 62 + b'"}', "reason: at most 123 bytes"),
]


async def test_the_error_for_a_bad_body_names_the_field(api: Caller, backend: Backend) -> None:
    for path, body, why in BAD_BODIES:
        status, answer = await api.ask("POST", path, body)
        assert (status, answer["error"]["code"], why in answer["error"]["message"]) == (400, "bad_request", True), (
            answer
        )
    assert await backend.published() == []
    assert (backend.tickets, backend.control_payloads) == ([], [])


async def test_hostile_requests_are_refused(api: Caller, backend: Backend) -> None:
    keys = b"".join(b'"k%d":%d,' % (n, n) for n in range(10_000))
    body = b'{"messages":[{' + keys + b'"rooms":["r"],"data":1}]}'
    assert (await api.batch(body))[0] == 400
    body = b'{"messages":[{"rooms":["r"],"data":{' + keys[:900].rpartition(b",")[0] + b"}}]}"
    assert (await api.batch(body))[0] == 200
    assert (await api.publish(b"\x1f\x8b" + b"x" * 100, Content_Encoding="gzip"))[0] == 415
    for garbage in (
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        head("GET", "/v1/stats", *(f"X-{n}: y" for n in range(10_000))),
        head("GET", "/v1/stats", "X: " + "y" * 20_000),
        head("POST", "/v1/publish", "Content-Length: 5", "Content-Length: 6") + b"{}",
        head("POST", "/v1/publish", "Content-Length: -1") + b"{}",
        head("POST", "/v1/publish", "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
        head("POST", "/v1/publish", "Transfer-Encoding: chunked", "Content-Length: 2") + b"0\r\n\r\n",
    ):
        with capture_logs():
            assert (await api.raw(garbage))[0] == 400, garbage[:60]
    assert await backend.published() == [("server", body.partition(b'"data":')[2][:-3])]
    assert (await api.ask("GET", "/v1/stats"))[0] == 200


async def test_an_endless_body_is_cut_off(api: Caller) -> None:
    for key in (KEY, "x" * 32):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(head("POST", "/v1/publish", "Transfer-Encoding: chunked", key=key))
        sent = 0
        try:
            while sent < 2**30:
                writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                await asyncio.wait_for(writer.drain(), 20)
                sent += 65536
                await asyncio.sleep(0.005)
        except ConnectionError:
            pass
        writer.close()
        assert sent < 2**30
        del reader
    assert (await api.ask("GET", "/v1/stats"))[0] == 200


async def test_a_slow_body_times_out(api: Caller) -> None:
    request = head("POST", "/v1/publish", "Content-Length: 100") + b'{"room":'
    status, answer = await api.raw(request)
    assert status == 408
    assert b"longer than 1 seconds" in answer


async def test_a_truncated_body_is_ignored(api: Caller, backend: Backend) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head("POST", "/v1/publish", "Content-Length: 22") + b'{"room":"r","data":1}')
    writer.write_eof()
    assert b" 200 " not in await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert await backend.published() == []


# Rooms and users.


NAMES = [
    "r",
    "a/b",
    "a/../b",
    "..",
    ".",
    "100%",
    "%2F",
    "%252F",
    "комната",
    "a?b#c",
    "a+b&c=d",
    "a{b}",
    "😀",
    "ü:{sub}",
    "r" * 128,
]


@pytest.mark.parametrize("name", NAMES)
async def test_names_in_a_path_are_unescaped_once(api: Caller, backend: Backend, name: str) -> None:
    await api.publish({"room": name, "data": "x"})
    escaped = quote(name, safe="").replace(".", "%2E")
    for path in (escaped, escaped.replace("%2F", "%2f")):
        status, answer = await api.ask("GET", f"/v1/rooms/{path}/history")
        assert (status, [message["data"] for message in answer["messages"]]) == (200, ["x"])
        status, answer = await api.ask("POST", f"/v1/users/{path}/disconnect?x=/y/z")
        assert (status, answer) == (202, {"user": name})
        assert control_messages.decode(backend.control_payloads[-1]) == Disconnect(
            name, "disconnected by the server", 1008
        )
    absolute = f"GET http://x/v1/rooms/{escaped}/history HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert b'"data":"x"' in (await api.raw(f"{absolute}Authorization: Bearer {KEY}\r\n\r\n".encode()))[1]


@pytest.mark.parametrize("escaped", ["%FF", "%ED%A0%80", "a%20b", "a%0Ab", "%00", "r" * 129, "%C3%A9" * 129])
async def test_bad_names_in_a_path_are_refused(api: Caller, escaped: str) -> None:
    for kind in ("presence", "history"):
        status, answer = await api.ask("GET", f"/v1/rooms/{escaped}/{kind}")
        assert (status, "in the path" in answer["error"]["message"]) == (400, True)


async def test_presence_in_pages(api: Caller, backend: Backend) -> None:
    assert (await api.ask("GET", "/v1/rooms/r/presence"))[1] == {"members": [], "count": 0, "more": False}
    backend.members = [f"ü/{n:03}" for n in range(150)]
    seen, after, more = [], "", True
    while more:
        _, page = await api.ask("GET", f"/v1/rooms/r/presence?limit=60&after={quote(after, safe='')}")
        assert page["count"] == 150
        seen += [member["user"] for member in page["members"]]
        after, more = seen[-1], page["more"]
    assert seen == backend.members
    assert len((await api.ask("GET", "/v1/rooms/r/presence"))[1]["members"]) == 100


async def test_history_in_pages(api: Caller) -> None:
    _, batch = await api.batch({"messages": [{"rooms": ["r"], "data": n} for n in range(250)]})
    epoch = batch["results"][0]["epoch"]
    _, page = await api.ask("GET", "/v1/rooms/r/history")
    assert [message["data"] for message in page["messages"]] == list(range(150, 250))
    first = page["messages"][0]
    assert (first["epoch"], first["seq"], first["from"], page["more"]) == (epoch, 151, "server", True)
    _, page = await api.ask("GET", f"/v1/rooms/r/history?before={epoch}-151&limit=10")
    assert [message["seq"] for message in page["messages"]] == list(range(141, 151))
    _, page = await api.ask("GET", f"/v1/rooms/r/history?since={epoch}-240")
    assert ([message["seq"] for message in page["messages"]], page["more"]) == (list(range(241, 251)), False)


@pytest.mark.parametrize(
    ("kind", "query", "why"),
    [
        ("history", "limit=0", "limit: Expected `int` >= 1"),
        ("history", "limit=101", "limit: Expected `int` <= 100"),
        ("presence", "limit=x", "limit: Expected `int`"),
        ("presence", "limit=1&limit=2", "limit is given more than once"),
        ("presence", "limt=1", "unknown field `limt`; known are after, limit"),
        ("history", "before=7", "before: a position is EPOCH-SEQ"),
        ("history", "since=7-x", "since: a position is EPOCH-SEQ"),
        ("history", "since=-1-1", "since: a position is EPOCH-SEQ"),
        ("history", "since=1-9007199254740992", "since: a position is EPOCH-SEQ"),
        ("history", "since=" + "1" * 16 + "-1", "since: a position is EPOCH-SEQ"),
        ("history", "since=%D9%A1-1", "since: a position is EPOCH-SEQ"),
        ("history", "since=1-1&before=2-2", "before, since: one of them"),
        ("history", "since=", "since: a position is EPOCH-SEQ"),
    ],
)
async def test_bad_queries_are_refused(api: Caller, kind: str, query: str, why: str) -> None:
    status, answer = await api.ask("GET", f"/v1/rooms/r/{kind}?{query}")
    assert (status, why in answer["error"]["message"]) == (400, True), answer


async def test_queries_at_their_limits(api: Caller) -> None:
    for query in ("limit=1", "limit=100", "since=0-0", "before=999999999999999-9007199254740991"):
        assert (await api.ask("GET", f"/v1/rooms/r/history?{query}"))[0] == 200


async def test_a_user_is_disconnected_by_all_workers(api: Caller, backend: Backend) -> None:
    reason = "é" * 61 + "x"
    for code in (1000, 1001, 1008, 4000, 4999):
        status, answer = await api.ask("POST", "/v1/users/alice/disconnect", {"reason": reason, "code": code})
        assert (status, answer) == (202, {"user": "alice"})
        assert control_messages.decode(backend.control_payloads[-1]) == Disconnect("alice", reason, code)
        assert json.loads(backend.control_payloads[-1])["order"] == "disconnect"
    assert (await api.ask("POST", "/v1/users/a%20b/disconnect", {}))[0] == 202


def test_a_control_message_of_another_release_is_ignored() -> None:
    for payload in (b'{"order":"dance"}', b'{"order":"disconnect"}', b"{", b"7"):
        assert control_messages.decode(payload) is None
    order = b'{"order":"disconnect","user":"a","reason":"b","code":1008,"new":1}'
    assert control_messages.decode(order) == Disconnect("a", "b", 1008)


async def test_a_ticket(api: Caller, backend: Backend) -> None:
    status, answer = await api.ask("POST", "/v1/tickets", {"user": "alice"})
    assert (status, answer) == (200, {"ticket": "a-secret-ticket", "expires_in_s": 30})
    full = {"user": "bob", "join": ["team:*", "user:{sub}"], "publish": [], "expires_s": 2592000}
    assert (await api.ask("POST", "/v1/tickets", full))[0] == 200
    assert backend.tickets == [
        ("alice", None, None, None),
        ("bob", ("team:*", "user:{sub}"), (), 2592000),
    ]
    assert (await api.ask("POST", "/v1/tickets", {"user": "a", "join": ["r"] * 64}))[0] == 200
    assert (await api.ask("POST", "/v1/tickets", {"user": "a", "join": ["r"] * 65}))[0] == 400


async def test_stats(api: Caller) -> None:
    status, answer = await api.ask("GET", "/v1/stats")
    assert status == 200
    assert (answer["state"], answer["connections"], answer["archive"]["lag_s"]) == ("ready", 3, 0.2)


# Logs and metrics.


async def test_each_request_is_logged_without_its_secrets(api: Caller, caplog: Any) -> None:
    def samples() -> dict[tuple[str, str], float]:
        [family] = metrics.API_REQUESTS.collect()
        return {(s.labels["route"], s.labels["status"]): s.value for s in family.samples if s.name.endswith("_total")}

    before = samples()
    with capture_logs() as lines:
        await api.publish({"room": "room-name", "data": "confidential"}, Idempotency_Key="mykey")
        await api.ask("POST", "/v1/tickets", {"user": "alice"})
        await api.ask("GET", "/v1/rooms/room-name/history?limit=1")
        await api.ask("GET", f"/v1/{KEY}")
        await api.ask("GET", "/v1/stats", Authorization="Bearer " + "w" * 40)
        await api.raw(head("GET", "/v1/stats", "X: \0"))
        await api.raw(head("GET", "/v1/stats", f"X\0Y: {KEY}"))
        await api.raw(head("GET", "/v1/stats", "Expect: miracles"))
        await until(lambda: len([line for line in lines if line["event"] == "api_request"]) == 8)
    requests = [line for line in lines if line["event"] == "api_request"]
    assert [(line["method"], line["route"], line["status"]) for line in requests[:5]] == [
        ("POST", "/v1/publish", 200),
        ("POST", "/v1/tickets", 200),
        ("GET", "/v1/rooms/{room}/history", 200),
        ("GET", "none", 404),
        ("GET", "/v1/stats", 401),
    ]
    assert [line["status"] for line in requests[5:]] == [400, 400, 417]
    assert all(line["ip"] == "127.0.0.1" and 0 <= line["duration_s"] < 30 for line in requests)
    told = json.dumps(lines) + caplog.text
    for secret in (KEY, "confidential", "mykey", "a-secret-ticket", "room-name", "limit", "w" * 40, "miracles"):
        assert secret not in told
    gained = {labels: value - before.get(labels, 0) for labels, value in samples().items()}
    assert {labels: value for labels, value in gained.items() if value} == {
        ("/v1/publish", "200"): 1,
        ("/v1/tickets", "200"): 1,
        ("/v1/rooms/{room}/history", "200"): 1,
        ("none", "404"): 1,
        ("/v1/stats", "401"): 1,
        ("none", "400"): 2,
        ("/v1/stats", "417"): 1,
    }


async def test_the_line_of_a_traced_request_names_its_trace(api: Caller) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    given = [f"00-{trace}-{parent}-01", f"00-{trace}-{parent}-00", "garbage", ""]
    with capture_logs() as lines:
        for traceparent in given:
            await api.publish({"room": "r", "data": 1}, traceparent=traceparent)
        await until(lambda: len(lines) == len(given))
    assert [line.get("trace_id") for line in lines] == [trace, None, None, None]


# Life cycle.


async def test_an_address_in_use_is_named(backend: Backend, make_api: Callable[..., Api]) -> None:
    port = free_port()
    first, second = make_api(backend, api_port=port), make_api(backend, api_port=port)
    await first.start()
    with pytest.raises(OSError, match=rf"cannot listen: Address already in use: '127\.0\.0\.1 port {port}'"):
        await second.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await first.stop()  # the server closes first, so that the connection lingers on its side
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    await second.start()
    await second.stop()


async def test_a_stop_finishes_running_requests(backend: Backend, make_api: Callable[..., Api]) -> None:
    port = free_port()
    api = make_api(backend, api_port=port)
    await api.start()
    caller, idle = Caller(port), Caller(port)
    assert (await idle.ask("GET", "/v1/stats"))[0] == 200  # and stays connected
    backend.hold = asyncio.Event()
    under_way = asyncio.create_task(caller.publish({"room": "r", "data": 1}))
    await until(lambda: backend.traces)
    stopping = asyncio.create_task(api.stop())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    backend.hold.set()
    assert (await under_way)[0] == 200
    await asyncio.wait_for(stopping, 20)
    with pytest.raises(aiohttp.ClientConnectionError):
        await idle.ask("GET", "/v1/stats")
    await caller.session.close()
    await idle.session.close()


async def test_a_stop_does_not_wait_for_ever_and_cancels_no_publish(
    backend: Backend, make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsserver.api.server._FINISH_S", 0.2)
    port = free_port()
    api = make_api(backend, api_port=port)
    await api.start()
    caller = Caller(port)
    backend.hold = asyncio.Event()
    under_way = asyncio.create_task(caller.publish({"room": "r", "data": 1}))
    await until(lambda: backend.traces)
    await asyncio.wait_for(api.stop(), 20)
    with pytest.raises(aiohttp.ClientError):
        await under_way
    backend.hold.set()
    async with asyncio.timeout(20):
        while not await backend.published():  # noqa: ASYNC110 - brokers raise no asyncio.Event
            await asyncio.sleep(0.02)
    await caller.session.close()


# The OpenAPI file.


def operation(method: str, path: str) -> dict[str, Any] | None:
    parts = path.partition("?")[0].split("/")
    for template, methods in OPENAPI["paths"].items():
        names = template.split("/")
        if len(names) == len(parts) and all(n == p or (p and n[0] == "{") for n, p in zip(names, parts, strict=True)):
            return methods.get(method.lower())  # type: ignore[no-any-return]
    return None


def resolved(node: Any) -> Any:
    while "$ref" in node:
        target: Any = OPENAPI
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def validate(value: Any, schema: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": OPENAPI["components"]}).validate(value)


def check_documented(method: str, path: str, status: int, answer: Any) -> None:
    """Check that the OpenAPI file describes every answer that a test gets."""
    found = operation(method, path)
    if found is None:
        assert status in (401, 404, 405)
        validate(answer, OPENAPI["components"]["schemas"]["Error"])
        return
    response = resolved(found["responses"][str(status)])
    validate(answer, response["content"]["application/json"]["schema"])


def test_the_openapi_file_has_each_route_and_no_other(backend: Backend, make_api: Callable[..., Api]) -> None:
    router = make_api(backend).router
    served = {
        (route.method.lower(), route.resource.canonical) for route in router.routes() if route.resource is not None
    }
    described = {
        (method, path) for path, methods in OPENAPI["paths"].items() for method in methods if method != "parameters"
    }
    assert described == served
    assert OPENAPI["openapi"].startswith("3.1.")


def test_the_openapi_file_holds_together() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert resolved(node) is not None
            if "schema" in node:
                jsonschema.Draft202012Validator.check_schema(node["schema"])
            for example in [node["example"]] if "example" in node and "schema" in node else []:
                validate(example, node["schema"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(OPENAPI)
    for schema in OPENAPI["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    bodies = [
        response["content"]["application/json"]
        for methods in OPENAPI["paths"].values()
        for operation in methods.values()
        for response in map(resolved, operation["responses"].values())
    ]
    bodies += [
        operation["requestBody"]["content"]["application/json"]
        for methods in OPENAPI["paths"].values()
        for operation in methods.values()
        if "requestBody" in operation
    ]
    assert all("example" in body for body in bodies)


async def test_the_examples_of_the_openapi_file_work(api: Caller, backend: Backend) -> None:
    for path, methods in OPENAPI["paths"].items():
        for method, operation in methods.items():
            called = path
            for parameter in map(resolved, operation.get("parameters", [])):
                if parameter["in"] == "path":
                    called = called.replace(f"{{{parameter['name']}}}", quote(parameter["example"], safe=""))
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            status, _ = await api.ask(method.upper(), called, body)
            assert status in (200, 202), path
