# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
import time

from wsserver.rooms.batch_writer import BatchWriter
from wsserver.telemetry import metrics


class Client:
    def __init__(self) -> None:
        self.pending: tuple[bytes, ...] | None = None
        self.written: list[bytes] = []
        self.write = self.written.append


async def test_one_write_per_client_and_turn_in_order() -> None:
    writer, one, two = BatchWriter(), Client(), Client()
    writer.queue(one, b"a")
    writer.broadcast([one, two], b"b")
    writer.queue(two, b"c")
    writer.broadcast([one, two], b"d")
    assert one.written == []
    await asyncio.sleep(0)
    assert (one.written, two.written) == ([b"abd"], [b"bcd"])
    writer.queue(one, b"e")
    await asyncio.sleep(0)
    assert one.written == [b"abd", b"e"]
    await asyncio.sleep(0)
    assert len(two.written) == 1


async def test_clients_with_the_same_frames_share_one_buffer() -> None:
    writer, clients, other = BatchWriter(), [Client() for _ in range(50)], Client()
    writer.broadcast(clients, b"x")
    writer.broadcast([*clients, other], b"y")
    await asyncio.sleep(0)
    assert [d.written for d in clients] == [[b"xy"]] * 50
    assert len({id(d.written[0]) for d in clients}) == 1
    assert other.written == [b"y"]


async def test_frames_that_were_flushed_early_are_not_written_again() -> None:
    writer, client = BatchWriter(), Client()
    writer.queue(client, b"a")
    client.pending = ()  # as Session.flush does
    writer.queue(client, b"b")
    await asyncio.sleep(0)
    assert client.written == [b"b"]
    writer.queue(client, b"c")
    client.pending = None  # as Session.close does
    await asyncio.sleep(0)
    assert client.written == [b"b"]


async def test_a_frame_queued_while_writing_goes_out_in_the_next_turn() -> None:
    writer, one, two = BatchWriter(), Client(), Client()
    one.write = lambda data: (one.written.append(data), writer.queue(two, b"x"))[0]  # type: ignore[func-returns-value]
    writer.queue(one, b"a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (one.written, two.written) == ([b"a"], [b"x"])


async def test_a_message_to_thousands_of_clients_takes_several_turns() -> None:
    writer, clients = BatchWriter(), [Client() for _ in range(1200)]
    writer.broadcast(clients, b"a")
    turns = 0
    while any(client.written == [] for client in clients):
        before = sum(len(client.written) for client in clients)
        await asyncio.sleep(0)
        assert sum(len(client.written) for client in clients) - before <= 500
        turns += 1
        if turns == 1:
            writer.broadcast(clients, b"b")  # joins the frames that wait
    await asyncio.sleep(0.01)
    assert turns == 3
    assert all(b"".join(client.written) == b"ab" for client in clients)
    assert [len(client.written) for client in clients] == [2] * 500 + [1] * 700


async def test_the_time_to_deliver_is_observed_once_and_after_the_writes() -> None:
    def count() -> float:
        return sum(
            s.value for m in metrics.PUBLISH_TO_DELIVER.collect() for s in m.samples if s.name.endswith("_count")
        )

    writer, before = BatchWriter(), count()
    writer.broadcast([Client(), Client()], b"x")
    writer.observe(time.time())
    assert count() == before
    await asyncio.sleep(0)
    assert count() == before + 1
