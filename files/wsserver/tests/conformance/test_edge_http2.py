# SPDX-License-Identifier: MIT
"""HTTP/2 at the edge: many event streams of one browser share a connection, and WebSockets stay on
HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.browser import ORIGIN, chromium, tab
from support.wait import until
from support.worker import SECRET, Worker
from websockets.asyncio.client import connect

from conformance.edge import Edge
from wsserver.auth import mint

pytestmark = [pytest.mark.asyncio(loop_scope="session")]

Start = Callable[..., Worker]

_STREAMS = 7


_AUTHORIZATION = {"authorization": f"Bearer {mint(SECRET, 'alice', 86400)}"}


@pytest.fixture
async def workers(start: Start) -> list[Worker]:
    return [await start(WS_ALLOWED_ORIGINS=ORIGIN).ready() for _ in range(2)]


@pytest.fixture
def edge(workers: list[Worker]) -> Iterator[Edge]:
    # A third worker refuses connections, so that nginx must try another.
    started = Edge(7, *(worker.port for worker in workers), tls=True)
    yield started
    started.remove()


@asynccontextmanager
async def streams(edge: Edge, count: int) -> AsyncIterator[list[str]]:
    """The lines of event streams of one program, over one connection. Room n has stream n."""
    command = ["curl", "--http2", "--silent", "--no-buffer", "--insecure", "--parallel", "--noproxy", "*"]
    command += ["--parallel-max", str(count), "--write-out", "%{http_version} %{http_code} %{num_connects}\\n"]
    command += ["--header", f"Authorization: {_AUTHORIZATION['authorization']}"]
    for room in range(count):
        command += [f"https://127.0.0.1:{edge.port}/events?room={room}", "--output", "-"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    lines: list[str] = []

    async def read(stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            lines.append(line.decode().rstrip("\n"))

    reading = asyncio.create_task(read(process.stdout))
    try:
        yield lines
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


def found(lines: list[str], kind: str) -> list[dict[str, object]]:
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return [event for event in events if event.get("type") == kind]


def connections(edge: Edge) -> int:
    """The number of TCP connections of clients with the edge."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{edge.port:04X}") and row[3] == "01" for row in rows)


async def test_many_streams_share_a_connection(workers: list[Worker], edge: Edge) -> None:
    publisher = await workers[0].client("bob")
    async with streams(edge, _STREAMS) as lines:
        await until(lambda: len(found(lines, "joined")) == _STREAMS)
        assert connections(edge) == 1
        for n in range(_STREAMS):
            await publisher.publish(n, str(n), room=str(n))
        await until(lambda: len(found(lines, "message")) == _STREAMS)
        assert sorted((event["room"], event["data"]) for event in found(lines, "message")) == [
            (str(n), n) for n in range(_STREAMS)
        ]


async def test_a_browser_reads_many_streams_beside_a_websocket(workers: list[Worker], edge: Edge) -> None:
    """With HTTP/1.1, a browser opens six connections and lets the seventh stream wait for ever."""
    async with chromium("--ignore-certificate-errors") as browser, tab(browser) as page:
        token = mint(SECRET, "alice", 600)
        await page.make(f"wss://127.0.0.1:{edge.port}/ws", f"{{ token: '{token}' }}")
        await page("client.connect()")
        await page.run(
            f"""
            window.streamed = [];
            for (let n = 0; n < {_STREAMS}; n++) {{
              fetch(`https://127.0.0.1:{edge.port}/events?room=${{n}}`, {{ headers: {{ Authorization: "Bearer {token}" }} }})
                .then(async (answer) => {{
                  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
                  for (;;) {{
                    const {{ value, done }} = await reader.read();
                    if (done) return;
                    if (value.includes('"type":"message"')) streamed.push(n);
                  }}
                }});
            }}
            """
        )
        await until_streams(workers, _STREAMS)
        for n in range(_STREAMS):
            await page(f"client.publish('{n}', {n})")
        await page.until(f"streamed.length === {_STREAMS}")
        assert await page("client.state") == "connected"
        assert await page("client.connects") == 1


async def until_streams(workers: list[Worker], count: int) -> None:
    async with asyncio.timeout(30):
        while sum([(await worker.metrics())["ws_event_streams"] for worker in workers]) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("offered", [[], ["http/1.1"]], ids=["no ALPN", "http/1.1"])
async def test_websockets_stay_on_http_1(edge: Edge, offered: list[str]) -> None:
    """A client offers what it speaks: the Python client nothing, browsers HTTP/1.1 for a WebSocket."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if offered:
        context.set_alpn_protocols(offered)
    async with connect(
        f"wss://127.0.0.1:{edge.port}/ws", ssl=context, additional_headers=_AUTHORIZATION, proxy=None
    ) as client:
        assert json.loads(await asyncio.wait_for(client.recv(), 20))["type"] == "welcome"
        assert client.transport.get_extra_info("ssl_object").selected_alpn_protocol() in (None, "http/1.1")


async def test_an_upgrade_over_http_2_is_refused(workers: list[Worker], edge: Edge) -> None:
    """HTTP/2 has no Upgrade, and nginx does not offer extended CONNECT. A client that asks
    nevertheless gets an answer, and the edge serves on.
    """
    async with http2(edge.port) as client:
        headers = {
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        stream = client.request("/ws", **headers)
        await client.until(lambda: stream in client.ended)
        assert _ENABLE_CONNECT_PROTOCOL not in client.settings
        assert b"Failed to open a WebSocket connection" in client.bodies[stream]
    async with streams(edge, 1) as lines:
        await until(lambda: len(found(lines, "joined")) == 1)


async def test_streams_outlive_a_reload(workers: list[Worker], edge: Edge) -> None:
    publisher = await workers[0].client("bob")
    before = edge.processes()
    async with streams(edge, 2) as lines:
        await until(lambda: len(found(lines, "joined")) == 2)
        edge.reload()
        await until(lambda: bool(edge.processes() - before))
        async with streams(edge, 1) as later:
            await until(lambda: len(found(later, "joined")) == 1)
            for room in range(2):
                await publisher.publish("still", str(room), room=str(room))
            await until(lambda: len(found(lines, "message")) == 2)
    await until(lambda: not edge.processes() & before)


async def test_new_requests_soon_leave_an_old_process(workers: list[Worker], edge: Edge) -> None:
    """An open stream keeps its connection with the process of an earlier configuration. The client
    learns to open another connection for further requests, and the stream goes on.
    """
    publisher = await workers[0].client("bob")
    async with http2(edge.port) as client:
        first = client.request("/events?room=r")
        await client.until(lambda: b"joined" in client.bodies[first])
        await asyncio.sleep(edge.keepalive_s + 0.1)
        second = client.request("/events?room=s")
        await client.until(lambda: b"joined" in client.bodies[second] and client.told_to_leave)
        await publisher.publish("still", "1")
        await client.until(lambda: b"still" in client.bodies[first])


# HTTP/2 by hand: curl sends no header that HTTP/2 forbids, and opens another connection by itself.

_DATA, _HEADERS, _SETTINGS, _GOAWAY = 0, 1, 4, 7
_END_STREAM, _END_HEADERS = 1, 4
_ENABLE_CONNECT_PROTOCOL = 8


class Http2:
    """A connection. `bodies`, by stream; `ended`: the streams whose answer is complete."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.settings: dict[int, int] = {}
        self.bodies: defaultdict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.told_to_leave = False
        self._reader = reader
        self._writer = writer
        self._next = 1
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0))

    def request(self, path: str, **headers: str) -> int:
        """Request a path, and return the stream."""
        stream, self._next = self._next, self._next + 2
        pseudo = {":method": "GET", ":scheme": "https", ":authority": "x", ":path": path}
        every = {**pseudo, **{name.replace("_", "-"): value for name, value in headers.items()}, **_AUTHORIZATION}
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in every.items())
        self._writer.write(_frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, block))
        return stream

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await self._read()

    async def _read(self) -> None:
        head = await self._reader.readexactly(9)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind == _SETTINGS:
            self.settings |= dict(struct.iter_unpack("!HI", payload))
        elif kind == _DATA:
            self.bodies[stream] += payload
        elif kind == _GOAWAY:
            assert payload[4:8] == bytes(4), f"an error: {payload!r}"
            self.told_to_leave = True
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            self.ended.add(stream)


@asynccontextmanager
async def http2(port: int) -> AsyncIterator[Http2]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield Http2(reader, writer)
    finally:
        writer.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    """A literal of HPACK, without Huffman's code."""
    length, size = len(text), bytearray([min(len(text), 127)])
    if length >= 127:
        length -= 127
        while length >= 128:
            size.append(length % 128 + 128)
            length //= 128
        size.append(length)
    return bytes(size) + text.encode()
