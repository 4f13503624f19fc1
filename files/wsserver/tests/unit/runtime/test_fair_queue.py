# SPDX-License-Identifier: MIT
from __future__ import annotations

from wsserver.runtime.fair_queue import FairQueue


def queue(**items: int) -> FairQueue[str]:
    """A queue with so many items of each owner."""
    made: FairQueue[str] = FairQueue(each=3)
    for owner, count in items.items():
        for number in range(count):
            made.put(owner, f"{owner}{number}")
    return made


def test_an_owner_with_many_items_delays_the_others_by_few() -> None:
    waiting = queue(a=100, b=2, c=1)
    assert waiting.take(10) == ["a0", "a1", "a2", "b0", "b1", "c0"]
    waiting.put("c", "c1")
    assert waiting.take(4) == ["a3", "a4", "a5", "c1"]
    assert waiting.take(10) == ["a6", "a7", "a8"]


def test_owners_take_turns_where_not_all_fit() -> None:
    waiting = queue(a=4, b=4, c=4)
    assert waiting.take(5) == ["a0", "a1", "a2", "b0", "b1"]
    assert waiting.take(5) == ["c0", "c1", "c2", "a3", "b2"]
    assert waiting.take(5) == ["c3", "b3"]
    assert not waiting


def test_clearing() -> None:
    waiting = queue(a=4, b=1)
    assert waiting.clear() == ["a0", "a1", "a2", "a3", "b0"]
    assert not waiting
    assert waiting.take(1) == []
