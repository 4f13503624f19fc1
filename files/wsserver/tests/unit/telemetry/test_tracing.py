# SPDX-License-Identifier: MIT
"""Traces: what is traced, what a span has, and that a failing collector affects no client."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client import REGISTRY
from support.collector import Collector
from support.ports import free_port
from support.wait import until
from support.worker import SECRET, SRC, Worker, environment

from wsserver import __version__
from wsserver.auth import any_of
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.broker import Published
from wsserver.rooms.publisher import Publisher
from wsserver.settings import Settings
from wsserver.storage.memory.broker import MemoryBroker
from wsserver.telemetry import otlp
from wsserver.telemetry.tracing import Tracer
from wsserver.worker.worker import make_tracer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tracers of this process send more often than those of a worker."""
    monkeypatch.setattr(otlp, "_DELAY_MS", 50)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.remove()


@pytest.fixture
async def tracer(collector: Collector) -> Any:
    tracer = started(collector)
    yield tracer
    await tracer.stop()


def started(collector: Collector, ratio: float = 1) -> Tracer:
    tracer = make_tracer(settings(otlp_endpoint=collector.endpoint, trace_ratio=ratio))
    assert tracer is not None
    return tracer


def settings(**values: Any) -> Settings:
    return Settings(jwt_secret=SECRET, instance="host-80", **values)


def spans_counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("ws_trace_spans_total", {"outcome": outcome}) or 0


async def test_a_publish_and_its_delivery_are_parent_and_child(collector: Collector, tracer: Tracer) -> None:
    publish = tracer.publish("team:1")
    assert publish is not None
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", publish.traceparent)
    publish.end(seq=7)
    tracer.deliver(publish.traceparent, "team:1", 7, 3)
    await until(lambda: len(collector.spans) == 2)
    [sent], [delivered] = collector.named("publish"), collector.named("deliver")
    assert (sent.span.kind, delivered.span.kind) == (Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER)
    assert publish.traceparent.split("-")[1:3] == [sent.trace_id, sent.id]
    assert (sent.parent_id, delivered.parent_id) == ("", sent.id)
    assert delivered.trace_id == sent.trace_id
    common = {"messaging.system": "ws-server", "messaging.destination.name": "team:1", "ws.seq": 7}
    assert sent.attributes == {**common, "messaging.operation.type": "send"}
    assert delivered.attributes == {**common, "messaging.operation.type": "process", "ws.members": 3}
    assert sent.resource["service.name"] == "ws-server"
    assert sent.resource["service.instance.id"] == "host-80"
    assert sent.resource["service.version"] == __version__
    assert collector.paths == {"/v1/traces"}


async def test_a_delivery_ends_when_this_turn_has_written(collector: Collector, tracer: Tracer) -> None:
    class Client:
        pending: list[bytes] | None = None
        wrote_at = 0

        def write(self, _data: bytes) -> None:
            time.sleep(0.01)
            self.wrote_at = time.time_ns()

    client, writer = Client(), BatchWriter()
    writer.broadcast([client], b"frame")
    tracer.deliver(f"00-{TRACE}-{PARENT}-01", "r", 1, 1)
    await until(lambda: collector.spans)
    [delivered] = collector.spans
    assert 0 < delivered.span.start_time_unix_nano < client.wrote_at <= delivered.span.end_time_unix_nano


async def test_a_failed_publish_says_with_which_code(collector: Collector, tracer: Tracer) -> None:
    publish = tracer.publish("r")
    assert publish is not None
    with structlog.testing.capture_logs() as lines:
        publish.end("broker_full")
    await until(lambda: collector.spans)
    [sent] = collector.spans
    [line] = lines
    assert (line["event"], line["error"], line["trace_id"]) == ("traced_publish_failed", "broker_full", sent.trace_id)
    assert sent.span.status.code == Status.STATUS_CODE_ERROR
    assert sent.attributes["error.type"] == "broker_full"
    assert "ws.seq" not in sent.attributes


async def test_a_fault_of_the_server_ends_the_span(collector: Collector, tracer: Tracer) -> None:
    class Broken(MemoryBroker):
        def publish(self, *_: Any) -> asyncio.Future[Published]:
            future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
            future.set_exception(RuntimeError("a fault"))
            return future

    with pytest.raises(RuntimeError):
        await Publisher(Broken(1), None, any_of(()), tracer).publish("r", "alice", "1", b"1")
    await until(lambda: collector.spans)
    [sent] = collector.spans
    assert sent.attributes["error.type"] == "internal"


async def test_the_caller_of_a_publish_decides_whether_to_trace_it(collector: Collector) -> None:
    never, always = started(collector, 0), started(collector, 1)
    publish = never.publish("r", f"00-{TRACE}-{PARENT}-01")
    assert publish is not None
    publish.end()
    assert always.publish("r", f"00-{TRACE}-{PARENT}-00") is None
    await always.stop()
    await never.stop()
    [sent] = collector.spans
    assert (sent.trace_id, sent.parent_id) == (TRACE, PARENT)


@pytest.mark.parametrize(
    "parent", ["", "garbage", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01\r\nx"]
)
async def test_without_a_readable_parent_chance_decides(collector: Collector, parent: str) -> None:
    never, always = started(collector, 0), started(collector, 1)
    assert never.publish("r", parent) is None
    publish = always.publish("r", parent)
    assert publish is not None
    publish.end()
    await always.stop()
    await never.stop()
    [sent] = collector.spans
    assert sent.parent_id == ""
    assert sent.trace_id != TRACE


async def test_the_ratio_is_the_share_of_publishes_that_are_traced(collector: Collector) -> None:
    tracer = started(collector, 0.1)
    traced = sum(tracer.publish("r") is not None for _ in range(20_000))
    assert 1_500 < traced < 2_500
    await tracer.stop()


@pytest.mark.parametrize("trace", ["garbage", f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{'0' * 16}-01"])
async def test_a_delivery_of_an_untraced_publish_is_not_traced(
    collector: Collector, tracer: Tracer, trace: str
) -> None:
    tracer.deliver(trace, "r", 1, 1)
    tracer.deliver(f"00-{TRACE}-{PARENT}-01", "r", 2, 1)
    await until(lambda: collector.spans)
    assert [received.attributes["ws.seq"] for received in collector.spans] == [2]


async def test_a_collector_that_fails_costs_spans_and_one_line_each_way(collector: Collector) -> None:
    tracer = started(collector)
    before = spans_counted("failed")
    collector.status = 404  # the answer for a wrong path, which the SDK does not retry
    with structlog.testing.capture_logs() as lines:
        for failed in (1, 2, 3):
            tracer.deliver(f"00-{TRACE}-{PARENT}-01", "r", failed, 1)
            await until(lambda failed=failed: spans_counted("failed") == before + failed)
        collector.status = 200
        tracer.deliver(f"00-{TRACE}-{PARENT}-01", "r", 4, 1)
        await until(lambda: len(lines) == 2)
        await tracer.stop()
    assert [line["event"] for line in lines] == ["traces_not_sent", "traces_flow_again"]
    assert "404" in lines[0]["why"]
    assert lines[1]["spans_lost"] == 3
    assert len(collector.spans) == 1


async def test_an_endpoint_without_a_listener(caplog: pytest.LogCaptureFixture) -> None:
    tracer = make_tracer(settings(otlp_endpoint="http://127.0.0.1:9", trace_ratio=1))
    assert tracer is not None
    before = spans_counted("failed")
    with structlog.testing.capture_logs() as lines:
        for n in range(100):
            tracer.deliver(f"00-{TRACE}-{PARENT}-01", "r", n, 1)
        await until(lambda: spans_counted("failed") >= before + 32)
        await tracer.stop()
    assert [line["event"] for line in lines if line["event"] != "traces_left_behind"] == ["traces_not_sent"]
    assert "Connection refused" in lines[0]["why"]
    assert not caplog.records, "the SDK's own complaints would repeat themselves"


async def test_a_collector_that_hangs_delays_no_publish(collector: Collector) -> None:
    collector.hang()
    tracer = started(collector)
    full = spans_counted("queue_full")
    with structlog.testing.capture_logs() as lines:
        longest = 0.0
        for _turn in range(300):
            began = time.monotonic()
            for n in range(10):
                tracer.deliver(f"00-{TRACE}-{PARENT}-01", "r", n, 1)
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - began)
        await until(lambda: spans_counted("queue_full") == full + 3000 - 2048)
        assert longest < 2, "the exporter's thread waits for 5 s"
        began = time.monotonic()
        await tracer.stop()
        assert time.monotonic() - began < 4
    assert lines[-1]["event"] == "traces_left_behind"
    assert lines[-1]["spans"] >= 2000


async def test_a_worker_ends_in_time_whatever_the_collector_does(collector: Collector) -> None:
    collector.hang()
    program = f"""if True:
        import asyncio, time
        from wsserver.settings import Settings
        from wsserver.telemetry import otlp
        from wsserver.worker.worker import make_tracer
        async def main():
            tracer = make_tracer(Settings(jwt_secret="{SECRET}", otlp_endpoint="{collector.endpoint}"))
            tracer.deliver("00-{TRACE}-{PARENT}-01", "r", 1, 1)
            await asyncio.sleep(1.5)  # the request is under way
            await tracer.stop()
        asyncio.run(main())
        print(time.time(), flush=True)
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment(), stdout=subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0
    assert time.time() - float(output.splitlines()[-1]) < 4, "the exporter's thread was waited for"
    assert collector.requests


@pytest.mark.parametrize("on", [False, True])
async def test_neither_tracing_nor_its_exporter_is_imported_when_off(
    on: bool, collector: Collector, start_cold: Callable[..., Worker], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, pathlib, sys\n"
        "atexit.register(lambda: pathlib.Path(__file__).with_name('modules').write_text('\\n'.join(sys.modules)))\n"
    )
    options = {"WS_OTLP_ENDPOINT": collector.endpoint} if on else {}
    worker = start_cold(PYTHONPATH=f"{tmp_path}{os.pathsep}{SRC}", **options)
    client = await (await worker.ready()).client()
    await client.join()
    await client.publish(1, "1")
    await client.messages(1)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    modules = (tmp_path / "modules").read_text().split("\n")
    assert "wsserver.telemetry.tracing" in modules
    # redis-py imports the rest of OpenTelemetry by itself.
    costly = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto", "google.protobuf", "requests")
    assert any(name.startswith(costly) for name in modules) is on
    assert any(name.startswith("wsserver.telemetry.otlp") for name in modules) is on


async def test_two_workers_make_one_trace(collector: Collector, start: Callable[..., Worker]) -> None:
    options = {"WS_OTLP_ENDPOINT": collector.endpoint, "WS_TRACE_RATIO": "1"}
    one, two = start(WS_INSTANCE="one", **options), start(WS_INSTANCE="two", **options)
    alice = await (await one.ready()).client("alice")
    bobs = [await (await two.ready()).client(name) for name in ("bob", "carol")]
    for bob in bobs:
        await bob.join("lobby")
    await alice.publish({"secret": "payload-of-alice"}, "id-of-alice", "lobby")
    [seq] = [(await alice.event("ack"))["seq"]]
    for bob in bobs:
        assert await bob.messages(1) == [{"secret": "payload-of-alice"}]
    await until(lambda: len(collector.spans) == 2)
    [sent], [delivered] = collector.named("publish"), collector.named("deliver")
    assert (sent.resource["service.instance.id"], delivered.resource["service.instance.id"]) == ("one", "two")
    assert delivered.trace_id == sent.trace_id
    assert (sent.parent_id, delivered.parent_id) == ("", sent.id)
    assert (sent.attributes["ws.seq"], delivered.attributes["ws.seq"]) == (seq, seq)
    assert delivered.attributes["ws.members"] == 2
    assert sent.span.start_time_unix_nano <= delivered.span.start_time_unix_nano
    text = str(collector.spans)
    for kept_back in ("payload-of-alice", "id-of-alice", "alice", "bob", "carol", SECRET):
        assert kept_back not in text


async def test_the_measurement_of_a_traced_delivery_names_its_trace(
    collector: Collector, start: Callable[..., Worker]
) -> None:
    worker = await start(WS_OTLP_ENDPOINT=collector.endpoint, WS_TRACE_RATIO="1").ready()
    client = await worker.client()
    await client.join()
    await client.publish(1, "1")
    await client.messages(1)
    await until(lambda: len(collector.spans) == 2)
    [delivered] = collector.named("deliver")
    page = f"http://127.0.0.1:{worker.port}/metrics"
    async with aiohttp.ClientSession() as prometheus:
        async with prometheus.get(page, headers={"Accept": "application/openmetrics-text;version=1.0.0"}) as answer:
            assert answer.content_type == "application/openmetrics-text"
            exemplars = re.findall(
                r'^ws_publish_to_deliver_seconds_bucket.* # {trace_id="(.*?)"}', await answer.text(), re.MULTILINE
            )
        assert exemplars == [delivered.trace_id]
        async with prometheus.get(page) as answer:
            assert answer.content_type == "text/plain"
            assert "trace_id" not in await answer.text()


async def test_a_publish_over_the_server_api_belongs_to_the_callers_trace(
    collector: Collector, start: Callable[..., Worker]
) -> None:
    port, key = free_port(), "a key of the server API, 32 or more"
    options = {"WS_OTLP_ENDPOINT": collector.endpoint, "WS_TRACE_RATIO": "0"}
    worker = await start(WS_API_PORT=str(port), WS_API_KEY=key, **options).ready()
    client = await worker.client()
    await client.join()
    headers = {"Authorization": f"Bearer {key}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    url, body = f"http://127.0.0.1:{port}/v1/publish", {"room": "r", "data": 1}
    async with aiohttp.ClientSession(headers=headers) as backend, backend.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()
    assert await client.messages(1) == [1]
    await until(lambda: len(collector.spans) == 2)
    [sent], [delivered] = collector.named("publish"), collector.named("deliver")
    assert (sent.trace_id, sent.parent_id) == (TRACE, PARENT)
    assert (delivered.trace_id, delivered.parent_id) == (TRACE, sent.id)
