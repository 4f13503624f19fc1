# SPDX-License-Identifier: MIT
"""The witness finds every planted fault, in its ledger and through a socket, and no other."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from support.liar import liar
from support.proxy import proxy
from support.scripted import Peer, Scripted, scripted
from support.wait import until
from support.watching import progress, witness
from support.worker import SECRET, Worker, environment, ws_server

from wsserver.auth import mint
from wsserver.client import Position
from wsserver.witness import Witness
from wsserver.witness.latencies import Latencies
from wsserver.witness.ledger import Key, Ledger
from wsserver.witness.report import Verdict

Start = Callable[..., Worker]

# The ledger.


class Book:
    """A ledger of the rooms r (two subscribers) and s (one), in which message `n` of publisher 0 is
    Key(0, n).
    """

    def __init__(self) -> None:
        self.ledger = Ledger({"r": 2, "s": 1})
        self.now = 0.0

    def publish(self, *numbers: int, room: str = "r", publisher: int = 0) -> None:
        for number in numbers:
            self.ledger.publish(Key(publisher, number), room, self.now)

    def ack(self, number: int, seq: int, publisher: int = 0) -> None:
        self.ledger.acknowledge(Key(publisher, number), seq, self.now)

    def deliver(
        self, number: int, seq: int, *subscribers: int, room: str = "r", epoch: str = "1", publisher: int = 0
    ) -> None:
        for subscriber in subscribers or (0, 1):
            self.ledger.deliver(Key(publisher, number), room, subscriber, Position(epoch, seq), self.now)

    def found(self) -> tuple[int, int, int]:
        """Lost, duplicated, reordered."""
        return self.ledger.owed, self.ledger.duplicated, self.ledger.reordered


def test_a_kept_promise() -> None:
    book = Book()
    book.publish(0, 1, 2)
    book.ack(0, 1)
    book.deliver(0, 1)
    book.deliver(1, 2)  # before the acknowledgement
    book.ack(1, 2)
    book.deliver(2, 3, 0)
    book.ack(2, 3)
    assert book.found() == (1, 0, 0)
    book.deliver(2, 3, 1)
    assert book.found() == (0, 0, 0)
    ledger = book.ledger
    assert (ledger.published, ledger.acknowledged, ledger.delivered) == (3, 3, 6)
    assert ledger.faults == list(ledger.missing()) == []


def test_a_lost_acknowledged_message_is_found_per_subscriber() -> None:
    book = Book()
    book.publish(0, 1, 2)
    book.publish(3, room="s")
    for number in (0, 1, 3):
        book.ack(number, number + 1)
    book.deliver(0, 1, 1)
    book.deliver(2, 3, 1)
    assert book.found() == (4, 0, 0)
    assert list(book.ledger.missing()) == [
        "message 1 of r did not reach subscribers 0",
        "message 2 of r did not reach subscribers 0, 1",
        "message 4 of s did not reach subscribers 0",
    ]


@pytest.mark.parametrize("epoch", ["1", "2"])
def test_a_duplicate_is_found_whenever_it_comes(epoch: str) -> None:
    book = Book()
    book.publish(0, 1)
    book.publish(0, publisher=1)
    book.deliver(1, 1, 0)
    book.deliver(1, 2, 0, epoch=epoch)
    assert book.found() == (0, 1, 0)
    book.ack(1, 1)
    book.deliver(1, 1, 1)
    # Now the ledger has forgotten message 1, but not message 0.
    book.deliver(1, 3, 1, epoch=epoch)
    assert book.found() == (0, 2, 0)
    for publisher in (0, 1):
        book.deliver(0, 4 + publisher, publisher=publisher, epoch=epoch)
        book.ack(0, 4 + publisher, publisher=publisher)
    assert book.found() == (0, 2, 0)
    book.deliver(0, 6, 1, publisher=1, epoch=epoch)
    book.deliver(1, 7, 1, epoch=epoch)
    assert book.found() == (0, 4, 0)
    assert len(book.ledger.faults) == 4


def test_order_is_that_of_the_room_not_of_the_publisher() -> None:
    book = Book()
    book.publish(0, 1, 2)
    book.deliver(1, 1)
    book.deliver(0, 2)
    book.deliver(2, 1, epoch="2")
    assert book.found() == (0, 0, 0)


def test_a_reorder_is_found() -> None:
    book = Book()
    book.publish(0, 1)
    book.deliver(1, 2, 0)
    book.deliver(0, 1)
    book.deliver(1, 2, 1)
    assert book.found() == (0, 0, 1)


def test_subscribers_with_different_positions_are_found() -> None:
    book = Book()
    book.publish(0, 1)
    book.deliver(0, 1, 0)
    book.deliver(1, 2, 0)
    book.deliver(1, 1, 1)
    book.deliver(0, 2, 1)
    assert book.found() == (0, 0, 2)


def test_a_seq_other_than_the_acknowledged_one_is_found() -> None:
    book = Book()
    book.publish(0, 1)
    book.ack(0, 1)
    book.deliver(0, 5)
    book.deliver(1, 6)
    book.ack(1, 2)
    assert book.found() == (0, 0, 2)


def test_messages_of_other_publishers_are_ignored() -> None:
    book = Book()
    book.publish(0)
    book.deliver(0, 1, publisher=7)
    book.deliver(0, 2)
    assert book.found() == (0, 0, 0)
    assert book.ledger.delivered == 2


def test_a_long_run_is_forgotten() -> None:
    book = Book()
    for number in range(1000):
        book.publish(number)
        book.ack(number, number + 1)
        book.deliver(number, number + 1)
    assert (book.ledger._open, book.ledger._done[0]._others) == ({}, set())


def test_latencies() -> None:
    latencies = Latencies()
    assert latencies.percentile(50) is None
    for milliseconds in range(1000, 0, -1):
        latencies.add(milliseconds / 1000)
    latencies.add(0.0)
    for percent in (1.0, 50.0, 90.0, 99.0, 99.9):
        assert latencies.percentile(percent) == pytest.approx(percent / 100, rel=0.03)
    assert latencies.percentile(100) == 1.0
    book = Book()
    book.publish(0)
    book.now = 0.5
    book.deliver(0, 1, 0)
    book.now = 2.0
    book.ack(0, 1)
    book.deliver(0, 1, 1)
    assert [book.ledger.to_delivery.percentile(percent) for percent in (50, 100)] == [pytest.approx(0.5, rel=0.02), 2.0]
    assert book.ledger.to_ack.percentile(50) == 2.0


# Through a socket.


@pytest.mark.parametrize(
    ("lie", "lost", "duplicated", "reordered"),
    [
        ("", False, False, False),
        ("forget", True, False, False),
        ("skip", True, False, True),
        ("double", False, True, False),
        ("repeat", False, True, False),
        ("late", False, False, True),
    ],
)
async def test_a_lie_is_found(lie: str, lost: bool, duplicated: bool, reordered: bool) -> None:
    async with liar(lie) as server, witness(server.url, rooms=2, settle_s=5 if lost else 30) as one:
        await progress(one, 30)
        report = await one.finish()
    assert (report.lost > 0, report.duplicated > 0, report.reordered > 0) == (lost, duplicated, reordered), report
    assert report.verdict is (Verdict.BROKEN if lie else Verdict.KEPT)
    # One fault per room, counted for every subscriber of the room: 2 in one room, 1 in the other.
    assert report.lost == 3 * lost
    assert report.duplicated == 3 * duplicated
    assert bool(report.faults) == bool(lie)


@asynccontextmanager
async def one_of_each(server: Scripted) -> AsyncIterator[tuple[Witness, Peer, Peer, str]]:
    """A witness, the other ends of its subscriber and its publisher, and their room."""
    one = witness(server.url, connections=1, publishers=1, settle_s=0.5)
    entering = asyncio.create_task(one.__aenter__())
    peers = [await server.welcomed(), await server.welcomed()]
    member, publisher = sorted(peers, key=lambda peer: user_of(peer) == "witness-publisher-0")
    room = (await member.receive("join"))["room"]
    await member.joined(room)
    await entering
    yield one, member, publisher, room
    await one.__aexit__(None, None, None)


def user_of(peer: Peer) -> str:
    return str(jwt.decode(peer.token, SECRET, ["HS256"])["sub"])


async def test_an_unacknowledged_message_is_not_lost_and_its_repeats_are_not_counted() -> None:
    async with scripted() as server, one_of_each(server) as (one, member, publisher, room):
        first, second, third = [await publisher.receive("publish") for _ in range(3)]
        await member.message(1, room, first["data"])
        await publisher.send("ack", id=first["id"], room=room, seq=1)
        await publisher.send("error", id=second["id"], code="outcome_unknown", message="?")
        await publisher.send("error", id=third["id"], code="broker_error", message="no")
        while (await publisher.receive("publish"))["id"] != second["id"]:
            pass
        await member.message(2, room, second["data"])
        report = await one.finish()
    assert (report.acknowledged, report.delivered, report.lost) == (1, 2, 0)
    assert report.refused == {"broker_error": 1}
    assert report.published <= 34  # these two, and its window
    assert report.verdict is Verdict.KEPT


async def test_a_client_that_is_asked_to_reconnect_counts_as_disconnected() -> None:
    async with scripted() as server, one_of_each(server) as (one, member, _publisher, room):
        server.refusals += [503, 429]
        await member.send("reconnect", after_ms=1000, reason="going away")
        member = await server.welcomed()
        await member.joined((await member.receive("join"))["room"])
        await until(lambda: one.subscribers[0].client.rooms[room].joined)
        report = await one.finish()
    subscriber, publisher = report.clients
    assert (subscriber.disconnects, publisher.disconnects) == (1, 0)
    assert subscriber.longest_away_s >= 1
    assert (subscriber.failed_tries, publisher.failed_tries) == (2, 0)
    assert f"s at most until back after 2 failed tries, the last: {subscriber.failure}\n" in report.text()
    assert "HTTP 429" in subscriber.failure
    assert (publisher.longest_away_s, publisher.longest_silence_s) == (0, None)
    assert report.verdict is Verdict.UNKNOWN  # no publish was acknowledged


# The command.


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


async def test_a_killed_worker(start: Start, dsn: str, secret_file: Path) -> None:
    """As operators run it, against real workers: until Ctrl-C, with a kill -9 in between."""
    workers = [await start(WS_POSTGRES_DSN=dsn).ready() for _ in range(2)]
    async with proxy(*(worker.port for worker in workers)) as balancer:
        options = ["--jwt-secret-file", str(secret_file), "--rate", "200", "--json"]
        command = [sys.executable, "-m", "wsserver", "witness", balancer.url, *options]
        running = await asyncio.create_subprocess_exec(
            *command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert running.stderr is not None

        async def acknowledged(count: int) -> None:
            async with asyncio.timeout(30):
                while int((await running.stderr.readline()).split(b" acknowledged")[0].split()[-1]) < count:
                    pass

        await acknowledged(100)
        workers[0].signal(signal.SIGKILL)
        workers[0].start_again()
        await workers[0].ready()
        await acknowledged(600)
        running.send_signal(signal.SIGINT)
        output, _said = await asyncio.wait_for(running.communicate(), 40)
    report: dict[str, Any] = json.loads(output)
    assert running.returncode == 0, report
    assert report["verdict"] == "kept"
    assert (report["lost"], report["duplicated"], report["reordered"]) == (0, 0, 0)
    assert report["delivered"] >= 5 * report["acknowledged"] >= 5 * 600
    cut = [client for client in report["clients"] if client["disconnects"]]
    assert report["disconnects"] == len(cut) in range(1, 24)
    assert report["longest_away_s"] == max(client["longest_away_s"] for client in cut) > 0
    assert all(client["longest_silence_s"] > 0 for client in report["clients"] if client["room"])
    assert 0 < report["publish_to_ack_s"]["p50"] <= report["publish_to_ack_s"]["max"]


async def test_one_token_for_all(start: Start, tmp_path: Path) -> None:
    worker = await start().ready()
    url = f"ws://127.0.0.1:{worker.port}/ws"
    token = mint(SECRET, "alice", 600)
    (tmp_path / "token").write_text(token)
    for options, variables in ((["--token-file", str(tmp_path / "token")], {}), ([], {"WITNESS_TOKEN": token})):
        done = await asyncio.to_thread(ws_server, "witness", url, "--duration", "1", *options, **variables)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("The promise was kept.\n")
        assert "24 of 24 connected" in done.stderr
        assert token not in done.stdout + done.stderr


async def test_without_permission_to_publish_there_is_no_verdict(start: Start, tmp_path: Path) -> None:
    worker = await start().ready()
    url = f"ws://127.0.0.1:{worker.port}/ws"
    token = mint(SECRET, "alice", 600, publish=["elsewhere"])
    done = await asyncio.to_thread(ws_server, "witness", url, WITNESS_TOKEN=token)
    assert done.returncode == 2
    assert "No judgement" in done.stdout
    assert "forbidden" in done.stdout
    token = mint(SECRET, "alice", 600, join=["elsewhere"])
    done = await asyncio.to_thread(ws_server, "witness", url, WITNESS_TOKEN=token)
    assert done.returncode == 2
    assert "forbidden" in done.stderr


async def test_a_refused_witness_prints_the_reason(start: Start) -> None:
    worker = await start().ready()
    done = await asyncio.to_thread(ws_server, "witness", f"ws://127.0.0.1:{worker.port}/ws", WITNESS_TOKEN="T")
    assert done.returncode == 2
    assert "401" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["http://x/ws"], "no URL of a WebSocket"),
        (["ws://127.0.0.1/ws"], "$WITNESS_TOKEN"),
        (["ws://127.0.0.1/ws", "--rooms", "9", "--connections", "8"], "more rooms than connections"),
        (["ws://127.0.0.1/ws", "--rate", "0"], "no number above 0"),
        (["ws://127.0.0.1/ws", "--rooms", "2.5"], "no whole number"),
        (["ws://127.0.0.1/ws", "--token-file", "/nowhere"], "/nowhere"),
        (["wss://127.0.0.1/ws", "--ca-file", "/nowhere"], "/nowhere"),
    ],
)
def test_usage(arguments: list[str], told: str) -> None:
    done = ws_server("witness", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
