# SPDX-License-Identifier: MIT
"""Whole workers as processes, on loopback, with a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from support.redis_server import RedisServer
from support.wait import until
from support.wire import client_frame, text, upgrade_request
from support.worker import ORIGIN, SECRET, Client, Worker, until_status
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode

from wsserver.auth import mint

Start = Callable[..., Worker]


async def test_two_clients_on_two_workers_hear_each_other_in_order(start: Start) -> None:
    one, two = start(), start()
    alice = await (await one.ready()).client("alice")
    bob = await (await two.ready()).client("bob")
    await alice.join()
    await bob.join()
    for n in range(50):
        await alice.publish(["a", n], f"a{n}")
        await bob.publish(["b", n], f"b{n}")
    heard = [await alice.messages(100), await bob.messages(100)]
    assert heard[0] == heard[1]
    for name in "ab":
        assert [n for who, n in heard[0] if who == name] == list(range(50))
    await alice.send(type="ping", t={"x": [1, None]})
    pong = await alice.next()
    while pong["type"] == "ack":
        pong = await alice.next()
    assert pong == {"type": "pong", "t": {"x": [1, None]}}


async def test_a_message_names_its_sender_and_its_ack_its_place(start: Start) -> None:
    client = await (await start().ready()).client("alice")
    joined = await client.join()
    assert joined["recovered"] is False
    await client.publish({"text": "hello"}, "1")
    events = {event["type"]: event for event in [await client.next(), await client.next()]}
    assert events["ack"] == {"type": "ack", "id": "1", "room": "r", "seq": joined["seq"] + 1}
    ts = events["message"].pop("ts")
    assert isinstance(ts, float)
    assert events["message"] == {
        "type": "message",
        "room": "r",
        "seq": joined["seq"] + 1,
        "epoch": joined["epoch"],
        "from": "alice",
        "data": {"text": "hello"},
    }
    await client.publish("again", "1")
    assert (await client.event("ack"))["seq"] == joined["seq"] + 1
    await client.send(type="leave", room="r")
    assert await client.event("left") == {"type": "left", "room": "r"}


async def test_a_client_resumes_where_it_was_on_another_worker(start: Start) -> None:
    one, two = await start().ready(), await start().ready()
    alice, bob = await one.client("alice"), await two.client("bob")
    await alice.join()
    await bob.join()
    await alice.publish(0, "0")
    await bob.messages(1)
    await bob.connection.close()
    for n in range(1, 200):
        await alice.publish(n, str(n))
    await alice.messages(200)
    bob_again = await one.client("bob")
    joined = await bob_again.join(since=bob.since)
    assert joined["recovered"] is True
    assert {"epoch": joined["epoch"], "seq": joined["seq"]} == bob.since
    assert await bob_again.messages(199) == list(range(1, 200))


async def refusal(worker: Worker, user: str = "alice", **options: Any) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as refused:
        await worker.connect(user, **options)
    return refused.value.response.status_code, refused.value.response.body or b""


async def test_refused_handshakes(start: Start) -> None:
    worker = await start().ready()
    good, expired, forged = mint(SECRET, "alice", 60), mint(SECRET, "alice", -60), mint("x" * 32, "alice", 60)
    for token in (expired, forged, "nonsense", jwt.encode({"sub": "a", "exp": 2e9}, None, "none")):
        status, body = await refusal(worker, additional_headers={"Authorization": f"Bearer {token}"})
        assert status == 401
        assert token.encode() not in body
    assert (await refusal(worker, additional_headers={}))[0] == 401
    assert (await refusal(worker, origin="https://evil.example"))[0] == 403
    assert (await worker.http("/ws", f"Authorization: Bearer {good}"))[0] == 426
    assert (await worker.http("/nothing"))[0] == 404
    assert (await worker.http("/healthz", method="POST"))[0] == 405
    assert (await worker.http("/ws", f"Authorization: Bearer {good}", method="HEAD"))[0] == 405
    assert (await worker.http("/events?room=r"))[0] == 401
    assert (await worker.http("/healthz"))[0] == 200
    assert (await worker.raw(b"\x16\x03\x01 this is no HTTP\r\n\r\n"))[0] == 400
    assert (await worker.raw(b"GET /" + b"x" * 20000))[0] == 414
    assert (await worker.raw(b"GET / HTTP/1.1\r\nX: " + b"x" * 20000))[0] == 431
    for accepted in ({"origin": ORIGIN}, {"subprotocols": ["bearer", good], "additional_headers": {}}):
        connection = await worker.connect(**accepted)
        assert json.loads(await connection.recv())["type"] == "welcome"
        await connection.close()
    samples = await worker.metrics()
    assert samples['ws_handshakes_refused_total{status="401"}'] == 6
    assert not any(secret in worker.output() for secret in (good, expired, forged, SECRET))


async def test_head_answers_like_get_without_the_body(start: Start, redis: RedisServer) -> None:
    """Load balancers and monitors use HEAD for health."""
    worker = await start().ready()
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/nothing", 404)):
        got, answer = await worker.http(path, method="HEAD")
        assert (got, answer.partition("\r\n\r\n")[2]) == (status, "")
        assert int(answer.partition("Content-Length: ")[2].partition("\r\n")[0]) > 0
    redis.kill()
    await until_status(worker, "/readyz", 503)
    got, answer = await worker.http("/readyz", method="HEAD")
    assert got == 503
    assert answer.endswith("\r\n\r\n")


async def test_a_page_learns_from_a_close_why_it_is_refused(start: Start) -> None:
    """Browsers do not show a page the status of a handshake."""
    worker = await start().ready()
    good, expired, wordy = (mint(SECRET, "alice", 60), mint(SECRET, "alice", -60), "." * 3000)
    for token, path, origin, why in (
        (expired, "/ws", ORIGIN, "the token has expired"),
        (wordy, "/ws", ORIGIN, "not valid"),
        ("", "/ws?ticket=none", ORIGIN, "ticket"),
        (good, "/ws", "https://evil.example", "origin"),
    ):
        offer = ["bearer", token] if token else ["bearer"]
        page = await worker.connect(path=path, origin=origin, subprotocols=offer, additional_headers={})
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(page.recv(), 20)
        assert page.close_code == 1008
        assert why in (page.close_reason or "")
    samples = await worker.metrics()
    assert (samples['ws_handshakes_refused_total{status="401"}'], samples["ws_active_connections"]) == (3, 0)
    assert [line["event"] for line in worker.log() if line["level"] == "error"] == []


async def test_odd_headers_are_answered(start: Start) -> None:
    worker = await start().ready()
    deep = "ey" + "W1tb" * 1500  # a token header of nested JSON lists
    for headers in (
        {"X_Real_IP": "1\r\nX-Real-IP: 2"},
        {"X_Real_IP": "\xff\xfe"},
        {"Authorization": "Bearer \xff.\xff.\xff"},
        {"Authorization": f"Bearer {deep}.e30.e30"},
        {"Authorization": "Bearer a\r\nAuthorization: Bearer b"},
        {"Sec_WebSocket_Protocol": "chat, bearer\xff"},
    ):
        status, _ = await worker.raw(upgrade_request(**headers))
        assert status in (400, 401), headers
    assert [line for line in worker.log() if line["level"] == "error"] == []


async def test_while_redis_is_unavailable_the_worker_is_not_ready_and_clients_stay(
    start: Start, redis: RedisServer
) -> None:
    worker = await start().ready()
    client = await worker.client()
    await client.join()
    redis.kill()
    await until_status(worker, "/readyz", 503)
    assert (await worker.http("/healthz"))[0] == 200
    assert (await refusal(worker))[0] == 503
    assert (await refusal(worker, subprotocols=["bearer", "whatever"]))[0] == 503  # for the edge to see
    await client.publish("lost", "1")
    error = await client.event("error")
    assert (error["code"], error["id"]) == ("unavailable", "1")
    await client.send(type="join", room="other")
    assert (await client.event("error"))["code"] == "unavailable"
    redis.start()
    await worker.ready()
    await client.publish("kept", "1")
    assert await client.messages(1) == ["kept"]


async def test_a_worker_answers_503_until_redis_is_available(start: Start, redis: RedisServer) -> None:
    redis.kill()
    worker = start()
    await until_status(worker, "/healthz", 200)
    assert (await refusal(worker))[0] == 503
    redis.start()
    await worker.ready()
    await worker.client()


async def test_sigterm_sends_clients_to_other_workers_and_loses_nothing(start_cold: Start) -> None:
    going, staying = await start_cold().ready(), await start_cold().ready()
    clients = [await going.client(f"user{n}") for n in range(5)]
    publisher = await staying.client("publisher")
    for client in clients:
        await client.join()
    acknowledged: list[str] = []

    async def publish_and_count() -> None:
        for n in range(400):
            await publisher.publish(n, str(n))
            acknowledged.append((await publisher.event("ack"))["id"])

    publishing = asyncio.create_task(publish_and_count())
    going.signal(signal.SIGTERM)
    await until_status(going, "/readyz", 503)
    assert (await refusal(going))[0] == 503

    async def follow(client: Client) -> list[int]:
        data: list[int] = []
        hinted = False
        while True:
            try:
                event = await client.next()
            except ConnectionClosed:
                break
            if event["type"] == "reconnect":
                hinted = True
                assert 0 <= event["after_ms"] <= 10_000
            elif event["type"] == "message":
                assert client.since is not None
                assert event["seq"] == client.since["seq"] + 1
                client.since["seq"] = event["seq"]
                data.append(event["data"])
        assert hinted
        assert await client.closed() == (1001, "the server is going away")
        again = await staying.client("user")
        assert (await again.join(since=client.since))["recovered"] is True
        return data + await again.messages(400 - len(data))

    followed = await asyncio.gather(*(follow(client) for client in clients))
    await publishing
    assert len(acknowledged) == 400
    assert all(data == list(range(400)) for data in followed)
    assert going.wait() == 0
    assert [line["event"] for line in going.log()][-1] == "stopped"
    assert (await going.http("/healthz"))[0] == 0


async def test_kill_9_loses_nothing_that_was_acknowledged(start: Start) -> None:
    dying, staying = await start().ready(), await start().ready()
    publisher, reader = await dying.client("publisher"), await staying.client("reader")
    await reader.join()
    acknowledged: set[str] = set()
    sent = 0
    try:
        while True:
            await publisher.publish(sent, str(sent))
            sent += 1
            if sent % 20 == 0:
                acknowledged |= {(await publisher.event("ack"))["id"]}
            if sent == 300:
                dying.signal(signal.SIGKILL)
    except ConnectionClosed:
        dying.wait()
    try:
        while True:
            acknowledged.add((await publisher.event("ack"))["id"])
    except ConnectionClosed:
        assert acknowledged
    again = await staying.client("publisher")
    for n in range(sent):
        await again.publish(n, str(n))  # no message is published twice
    assert await again.acks(sent) == [str(n) for n in range(sent)]
    assert sorted(await reader.messages(sent)) == list(range(sent))
    await again.send(type="ping")
    assert (await again.event("pong"))["t"] is None


async def test_systemd_is_notified(start_cold: Start, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(120)
        worker = start_cold(NOTIFY_SOCKET=str(path))

        def until_told(state: str) -> str:
            while state not in (told := systemd.recv(4096).decode()):
                pass
            return told

        told = await asyncio.to_thread(until_told, "READY=1")
        assert "STATUS=" in told
        assert (await worker.http("/readyz"))[0] == 200
        for _ in range(2):
            await asyncio.to_thread(until_told, "WATCHDOG=1")
        worker.signal(signal.SIGTERM)
        await asyncio.to_thread(until_told, "STOPPING=1")
        assert await asyncio.to_thread(worker.wait) == 0


async def test_systemd_is_not_notified_before_redis_answers(start: Start, redis: RedisServer, tmp_path: Path) -> None:
    redis.kill()
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(120)
        start(NOTIFY_SOCKET=str(path))
        told = [await asyncio.to_thread(systemd.recv, 4096) for _ in range(3)]
        assert told == [b"WATCHDOG=1"] * 3


async def test_metrics(start: Start) -> None:
    worker = await start().ready()
    clients = [await worker.client() for _ in range(3)]
    for client in clients:
        await client.join()
    for n in range(4):
        await clients[0].publish(n, str(n))
    for client in clients:
        await client.messages(4)
    samples = await worker.metrics()
    assert samples["ws_active_connections"] == 3
    assert samples["ws_messages_in_total"] == 3 + 4
    assert samples["ws_messages_out_total"] == 12
    assert samples["ws_message_drops_total"] == 0
    assert samples["ws_publish_to_deliver_seconds_count"] == 4, "once per message and worker"
    buckets = [name.partition('le="')[2][:-2] for name in samples if "deliver_seconds_bucket" in name]
    assert [float(bound) for bound in buckets] == [0.001 * 2**n for n in range(12)] + [float("inf")]
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert samples[name] > 0
    for name in ('ws_limited_total{limit="slow_client"}', 'ws_errors_total{code="unavailable"}'):
        assert samples[name] == 0, "there before its first increase"
    await clients[0].connection.close()
    await until(lambda: worker.log("disconnect"))
    assert (await worker.metrics())["ws_active_connections"] == 2


async def test_a_worker_listens_on_all_its_addresses(start: Start) -> None:
    worker = await start(WS_LISTEN_ADDRESS="127.0.0.1,127.0.0.2").ready()
    for address in ("127.0.0.1", "127.0.0.2"):
        async with connect(f"ws://{address}:{worker.port}/ws", additional_headers=bearer("alice"), proxy=None):
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.3", worker.port), 5)
    other = start(WS_LISTEN_ADDRESS="127.0.0.3,127.0.0.2", PORT=str(worker.port))
    assert await asyncio.to_thread(other.wait) != 0
    assert f"127.0.0.2 port {worker.port}" in other.output()


async def test_logs_are_json_one_line_for_each_event(start: Start) -> None:
    worker = await start(WS_INSTANCE="80").ready()
    client = await worker.client("alice", additional_headers={**bearer("alice"), "X-Real-IP": "203.0.113.9"})
    await client.connection.close(1000, "bye")
    await refusal(worker, additional_headers={})
    # In no fixed order: readiness is polled every 20 ms, and a client may have come and gone by
    # then.
    expected = ("listening", "ready", "connect", "disconnect", "refused")
    await until(lambda: all(worker.log(event) for event in expected))
    events = [line["event"] for line in worker.log()]
    assert [events.count(event) for event in expected] == [1] * 5
    for line in worker.log():
        assert (line["instance"], line["level"] in ("info", "warning")) == ("80", True)
        assert {"timestamp", "version"} <= line.keys()
    [connect], [disconnect] = worker.log("connect"), worker.log("disconnect")
    assert (connect["user"], connect["ip"]) == ("alice", "203.0.113.9")
    assert connect["connection"] == disconnect["connection"]
    assert (disconnect["code"], disconnect["reason"]) == (1000, "bye")


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {mint(SECRET, user, 600)}"}


BLOB = "x" * 10_000


def narrow_socket(worker: Worker) -> socket.socket:
    """A connection whose receive buffer is small, so that not reading shows soon."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", worker.port))
    return narrow


async def test_a_slow_reader_delays_no_other_client_and_is_refilled_in_order(start: Start) -> None:
    worker = await start(WS_SEND_BUFFER_BYTES="16384", WS_SLOW_CLIENT_S="60", WS_ROOM_LOG_BYTES=str(2**26)).ready()
    slow = await worker.client("slow", sock=narrow_socket(worker), max_queue=1)
    quick, publisher = await worker.client("quick"), await worker.client("publisher")
    await slow.join()
    await quick.join()
    count = 800  # 8 MB, more than the kernel's buffers hold
    for start_at in range(0, count, 100):
        for n in range(start_at, start_at + 100):
            await publisher.publish([n, BLOB], str(n))
        await publisher.acks(100)
        assert [n for n, _ in await quick.messages(100)] == list(range(start_at, start_at + 100))
    drops = (await worker.metrics())["ws_message_drops_total"]
    # The quick reader has the same small buffer, which is full at times.
    assert 0 < drops < 2 * count
    assert [n for n, _ in await slow.messages(count)] == list(range(count))
    await publisher.publish(["last", ""], "last")
    assert (await slow.messages(1))[0][0] == "last", "not live again"


async def test_a_client_that_never_reads_is_closed(start: Start) -> None:
    worker = await start(WS_SEND_BUFFER_BYTES="16384", WS_SLOW_CLIENT_S="1", WS_HEARTBEAT_S="1").ready()
    slow = await worker.client("slow", sock=narrow_socket(worker), max_queue=1)
    publisher = await worker.client("publisher")
    await slow.join()
    for n in range(800):
        await publisher.publish([n, BLOB], str(n))
    await publisher.acks(800)
    await until(lambda: worker.log("disconnect"))
    [gone] = worker.log("disconnect")
    assert (gone["user"], gone["code"], gone["reason"]) == ("slow", 1013, "too slow")


async def test_a_half_open_connection_is_found_by_the_heartbeat(start: Start) -> None:
    worker = await start(WS_HEARTBEAT_S="1").ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(upgrade_request(Authorization=bearer("alice")["Authorization"]))
    healthy = await worker.client("healthy")  # the library answers pings
    await until(lambda: worker.log("disconnect"))
    [gone] = worker.log("disconnect")
    assert gone["user"] == "alice"
    assert gone["reason"] == "no answer to pings"
    assert b"no answer to pings" in await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await healthy.send(type="ping")
    assert (await healthy.next())["type"] == "pong"


async def test_a_connection_without_a_request_is_cut(start: Start) -> None:
    worker = await start().ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(b"GET /ws HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_client_that_hangs_up_without_reading_is_removed(start: Start) -> None:
    worker = await start(WS_SEND_BUFFER_BYTES="67108864").ready()
    narrow = narrow_socket(worker)
    slow = await worker.client("slow", sock=narrow, max_queue=1)
    publisher = await worker.client("publisher")
    await slow.join()
    for n in range(800):
        await publisher.publish([n, BLOB], str(n))
    await publisher.acks(800)
    narrow.shutdown(socket.SHUT_WR)
    await until(lambda: worker.log("disconnect"))
    assert worker.log("disconnect")[0]["user"] == "slow"


async def test_frames_that_break_the_protocol(start: Start) -> None:
    worker = await start(WS_MAX_MESSAGE_BYTES="1024").ready()
    cases = [
        (client_frame(Opcode.BINARY, b"x"), 1003),
        (text("x" * 1025), 1009),
        (client_frame(Opcode.TEXT, b"{}", mask=False), 1002),
        (b"\xff" * 20, 1002),
    ]
    for data, code in cases:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        # The frame comes with the request: first the answer, then a whole welcome, then the close.
        writer.write(upgrade_request(**bearer("alice")) + client_frame(Opcode.PING, b"hey") + data)
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 101 ")
        frames = answer.partition(b"\r\n\r\n")[2]
        assert frames.startswith(b"\x8a\x03hey")
        assert code.to_bytes(2, "big") in frames
        writer.close()
    client = await worker.client()
    await client.connection.send(b"\xff\xfe", text=True)
    assert (await client.closed())[0] == 1007


async def test_a_port_in_use_ends_in_one_sentence(start: Start) -> None:
    first = await start().ready()
    second = start(PORT=str(first.port))
    assert await asyncio.to_thread(second.wait) == 1
    [sentence] = second.output().splitlines()
    assert str(first.port) in sentence
    assert "in use" in sentence


async def test_rooms_are_isolated_and_many(start: Start) -> None:
    worker = await start().ready()
    client, other = await worker.client("alice"), await worker.client("bob")
    for n in range(300):
        await client.send(type="join", room=f"room{n}")
    for n in range(300):
        assert (await client.event("joined"))["room"] == f"room{n}"
    for n in range(300):
        await other.publish(n, str(n), room=f"room{n}")
    heard = [await client.next() for _ in range(300)]
    assert sorted((event["room"], event["data"]) for event in heard) == sorted((f"room{n}", n) for n in range(300))
