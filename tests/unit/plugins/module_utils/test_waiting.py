# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._waiting import Wait


def test_sleeps_grow_to_a_second_and_end_at_the_deadline(clock):
    wait = Wait(5, clock)
    while not wait.over:
        wait.pause()
    assert clock.sleeps == [0.1, 0.15, 0.225, 0.338, 0.506, 0.759, 1.0, 1.0, 0.922]
    assert wait.seconds == pytest.approx(5, abs=0.001)
    assert wait.left == 0


def test_no_time_at_all_is_over_at_once(clock):
    assert Wait(0, clock).over


def test_time_between_pauses_counts(clock):
    wait = Wait(5, clock)
    clock.now += 4.95
    wait.pause()
    assert clock.sleeps == [0.05]
    clock.now += 100
    assert (wait.left, wait.over) == (0, True)


def test_another_process_continues_a_wait(clock):
    began = Wait(5, clock).began
    clock.now += 3
    wait = Wait(5, clock, began)
    assert (wait.seconds, wait.left) == (3, 2)
