# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace

import pytest

from wsserver.runtime import slices
from wsserver.runtime.slices import Slices


class Work:
    """Pieces of work that each take a hundredth of a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.done: list[str] = []
        monkeypatch.setattr(slices, "time", SimpleNamespace(monotonic=lambda: self.now))

    def do(self, name: str) -> None:
        self.done.append(name)
        self.now += 0.01


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


async def test_a_turn_has_time_for_some_work_and_the_rest_waits_for_the_next(work: Work) -> None:
    some = Slices(0.025)
    for number in range(5):
        if some.left():
            work.do(f"at once {number}")
        else:
            some.wait(partial(work.do, f"later {number}"))
    assert work.done == ["at once 0", "at once 1", "at once 2"]
    await asyncio.sleep(0)
    assert work.done[3:] == ["later 3", "later 4"]
    assert some.left()
    work.do("at once 5")
    assert not some.left()
    await asyncio.sleep(0)
    assert some.left(), "a new turn"


async def test_work_that_waits_comes_in_order_and_may_wait_again(work: Work) -> None:
    some = Slices(0.025)

    def twice(name: str) -> None:
        work.do(name)
        some.wait(partial(work.do, f"{name} again"))

    for name in ("a", "b", "c", "d"):
        some.wait(partial(twice, name))
    await asyncio.sleep(0)
    assert work.done == ["a", "b", "c"]
    await asyncio.sleep(0)
    assert work.done[3:] == ["d", "a again", "b again"]
    await asyncio.sleep(0)
    assert work.done[6:] == ["c again", "d again"]


async def test_a_failure_affects_no_other_work(work: Work) -> None:
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    some = Slices(0.025)
    some.wait(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    some.wait(partial(work.do, "a"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert work.done == ["a"]
    assert len(failures) == 1
