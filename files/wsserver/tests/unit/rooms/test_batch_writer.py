# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
import time

from wsserver.rooms.batch_writer import BatchWriter
from wsserver.telemetry import metrics


class Destination:
    def __init__(self) -> None:
        self.pending: list[bytes] | None = None
        self.written: list[bytes] = []
        self.write = self.written.append


async def test_one_write_per_destination_and_turn_in_order() -> None:
    outbox, one, two = BatchWriter(), Destination(), Destination()
    outbox.queue(one, b"a")
    outbox.broadcast([one, two], b"b")
    outbox.queue(two, b"c")
    outbox.broadcast([one, two], b"d")
    assert one.written == []
    await asyncio.sleep(0)
    assert (one.written, two.written) == ([b"abd"], [b"bcd"])
    outbox.queue(one, b"e")
    await asyncio.sleep(0)
    assert one.written == [b"abd", b"e"]
    await asyncio.sleep(0)
    assert len(two.written) == 1


async def test_destinations_with_the_same_frames_share_one_buffer() -> None:
    outbox, destinations, other = BatchWriter(), [Destination() for _ in range(50)], Destination()
    outbox.broadcast(destinations, b"x")
    outbox.broadcast([*destinations, other], b"y")
    await asyncio.sleep(0)
    assert [d.written for d in destinations] == [[b"xy"]] * 50
    assert len({id(d.written[0]) for d in destinations}) == 1
    assert other.written == [b"y"]


async def test_frames_that_were_flushed_early_are_not_written_again() -> None:
    outbox, destination = BatchWriter(), Destination()
    outbox.queue(destination, b"a")
    destination.pending = []  # as Session.flush does
    outbox.queue(destination, b"b")
    await asyncio.sleep(0)
    assert destination.written == [b"b"]
    outbox.queue(destination, b"c")
    destination.pending = None  # as Session.close does
    await asyncio.sleep(0)
    assert destination.written == [b"b"]


async def test_a_frame_queued_while_writing_goes_out_in_the_next_turn() -> None:
    outbox, one, two = BatchWriter(), Destination(), Destination()
    one.write = lambda data: (one.written.append(data), outbox.queue(two, b"x"))[0]  # type: ignore[func-returns-value]
    outbox.queue(one, b"a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (one.written, two.written) == ([b"a"], [b"x"])


async def test_the_time_to_deliver_is_observed_once_and_after_the_writes() -> None:
    def count() -> float:
        return sum(
            s.value for m in metrics.PUBLISH_TO_DELIVER.collect() for s in m.samples if s.name.endswith("_count")
        )

    outbox, before = BatchWriter(), count()
    outbox.broadcast([Destination(), Destination()], b"x")
    outbox.observe(time.time())
    assert count() == before
    await asyncio.sleep(0)
    assert count() == before + 1
