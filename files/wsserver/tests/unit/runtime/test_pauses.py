# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from wsserver.runtime import pauses
from wsserver.runtime.pauses import LONGEST_S, Pauses
from wsserver.storage.redis import broker


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pauses, "_now", clock)
    return clock


def test_a_pause_is_noticed_once_and_what_follows_at_once_is_old(clock: Clock) -> None:
    noticed: list[float] = []
    watch = Pauses()
    watch.then(noticed.append)
    for _ in range(100):
        clock.now += LONGEST_S
        assert not watch.check()
    clock.now += LONGEST_S + 1
    assert watch.check()
    assert noticed == [LONGEST_S + 1]
    clock.now += 1
    assert watch.check(), "it may have waited in a socket"
    clock.now += 2
    assert not watch.check()
    assert len(noticed) == 1


def test_input_is_old_while_the_actions_run(clock: Clock) -> None:
    watch = Pauses()

    def act(_seconds: float) -> None:
        clock.now += 30  # many connections
        assert watch.check()

    watch.then(act)
    clock.now += LONGEST_S + 1
    assert watch.check()
    clock.now += 1
    assert watch.check()


def test_the_bound_is_far_below_the_time_in_which_repeats_are_recognised() -> None:
    assert LONGEST_S * 3 < broker._DEDUPE_TTL_S
