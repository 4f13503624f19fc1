# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The hosts that the edge watcher keeps out, with a fake clock."""

from __future__ import annotations

import pytest
from _upstream import Server
from ws_edge_watcher.policy import PERIOD_S, READY_POLLS, RELOADS, RELOADS_TO_BRING_BACK, SILENT_POLLS, Policy
from ws_edge_watcher.polling import TIMEOUT_S, Answer, Outcome, of_host
from ws_edge_watcher.watcher import INTERVAL_S

READY, ALIVE, SILENT = Answer.READY, Answer.ALIVE, Answer.SILENT


class Fleet:
    """Hosts a, b, … with two workers each. Decisions of the policy are carried out at once."""

    def __init__(self, *hosts: str) -> None:
        self.now = 1000.0
        self.policy = Policy("watcher", lambda: self.now)
        self.marks: dict[str, set[str]] = {host: set() for host in hosts}
        self.reloads = 0

    def servers(self) -> list[Server]:
        return [
            Server(f"{host}:{port}", tuple(sorted(marks)))
            for host, marks in self.marks.items()
            for port in (8080, 8081)
        ]

    def out(self) -> set[str]:
        return {host for host, marks in self.marks.items() if "watcher" in marks}

    def poll(self, times: int = 1, **answers: Answer) -> set[str]:
        """Poll once a second, with READY as the default answer. Return the hosts that are out."""
        for _time in range(times):
            self.now += 1
            self.policy.record({host: answers.get(host, READY) for host in self.marks})
            wanted = self.policy.out(self.servers())
            if wanted != self.out():
                for host, marks in self.marks.items():
                    (marks.add if host in wanted else marks.discard)("watcher")
                self.policy.reloaded()
                self.reloads += 1
        return self.out()


def test_a_silent_host_is_out_after_some_polls_and_back_after_some():
    fleet = Fleet("a", "b")
    assert fleet.poll(SILENT_POLLS - 1, b=SILENT) == set()
    assert fleet.poll(b=SILENT) == {"b"}
    assert fleet.poll(100, b=SILENT) == {"b"}
    assert fleet.poll(READY_POLLS - 1) == {"b"}
    assert fleet.poll() == set()
    assert fleet.reloads == 2


def test_a_dead_host_is_out_within_five_seconds():
    """The last good poll may be just before the death, and each poll takes its whole timeout."""
    assert SILENT_POLLS * INTERVAL_S + TIMEOUT_S <= 4


def test_a_host_that_answers_at_all_stays():
    fleet = Fleet("a", "b")
    assert fleet.poll(100, b=ALIVE) == set()


def test_silence_counts_in_a_row_only():
    fleet = Fleet("a", "b")
    for _time in range(20):
        assert fleet.poll(SILENT_POLLS - 1, b=SILENT) == set()
        assert fleet.poll(b=ALIVE) == set()


def test_a_host_that_is_not_ready_does_not_return():
    fleet = Fleet("a", "b")
    fleet.poll(SILENT_POLLS, b=SILENT)
    assert fleet.poll(10, b=ALIVE) == {"b"}
    fleet.poll(READY_POLLS - 1)
    fleet.poll(b=ALIVE)
    assert fleet.poll(READY_POLLS - 1) == {"b"}, "ready in a row"
    assert fleet.poll() == set()


def test_several_hosts_at_once_need_one_reload():
    fleet = Fleet("a", "b", "c")
    assert fleet.poll(SILENT_POLLS, b=SILENT, c=SILENT) == {"b", "c"}
    assert fleet.reloads == 1


def test_the_last_host_is_never_taken_out():
    fleet = Fleet("a", "b")
    fleet.poll(SILENT_POLLS, b=SILENT)
    assert fleet.poll(100, a=SILENT, b=SILENT) == {"b"}
    assert fleet.poll(READY_POLLS, a=SILENT) == {"a"}, "now that b is back"


def test_when_all_hosts_are_silent_none_is_taken_out():
    fleet = Fleet("a", "b")
    assert fleet.poll(100, a=SILENT, b=SILENT) == set()
    assert fleet.poll(b=SILENT) == {"b"}
    assert Fleet("a").poll(100, a=SILENT) == set()


def test_a_host_that_an_operator_took_out_counts_as_out():
    fleet = Fleet("a", "b")
    fleet.marks["a"] = {"ops"}
    assert fleet.poll(100, b=SILENT) == set()


def test_a_silent_host_that_an_operator_took_out_causes_no_reload():
    fleet = Fleet("a", "b")
    fleet.marks["b"] = {"ops"}
    assert fleet.poll(100, b=SILENT) == set()
    assert fleet.reloads == 0
    fleet.marks["b"] = set()
    assert fleet.poll(b=SILENT) == {"b"}


def test_an_operators_mark_is_never_removed():
    fleet = Fleet("a", "b")
    fleet.poll(SILENT_POLLS, b=SILENT)
    fleet.marks["b"].add("ops")
    fleet.poll(100)
    assert fleet.marks["b"] == {"ops"}


def test_the_watcher_does_not_keep_the_last_host_out():
    fleet = Fleet("a", "b")
    fleet.poll(SILENT_POLLS, b=SILENT)
    fleet.marks["a"] = {"ops"}  # by force
    assert fleet.poll(b=SILENT) == set()
    assert fleet.poll(100, b=SILENT) == set()


def test_a_restarted_watcher_knows_its_own_marks():
    fleet = Fleet("a", "b")
    fleet.marks["b"] = {"watcher"}
    assert fleet.poll(10, b=SILENT) == {"b"}
    assert fleet.poll(READY_POLLS) == set()


def test_a_new_worker_of_a_host_that_is_out_is_out():
    fleet = Fleet("a", "b")
    fleet.policy.record({"a": READY, "b": SILENT})
    assert fleet.policy.out([*fleet.servers(), Server("b:8082", ("watcher",))]) == {"b"}


def test_reloads_are_limited_if_a_host_keeps_failing_and_recovering():
    fleet = Fleet("a", "b")
    for _time in range(100):
        fleet.poll(SILENT_POLLS, b=SILENT)
        fleet.poll(READY_POLLS)
    assert fleet.now - 1000 >= PERIOD_S
    assert fleet.reloads <= 2 * RELOADS_TO_BRING_BACK


def test_the_last_reloads_are_reserved_for_dead_hosts():
    fleet = Fleet("a", "b", "c", "d", "e")
    for _time in range(RELOADS_TO_BRING_BACK // 2):
        fleet.poll(SILENT_POLLS, b=SILENT)
        fleet.poll(READY_POLLS)
    assert fleet.poll(SILENT_POLLS, b=SILENT) == {"b"}
    assert fleet.poll(SILENT_POLLS) == {"b"}
    assert fleet.poll(SILENT_POLLS, c=SILENT) == {"b", "c"}
    assert fleet.reloads == RELOADS
    assert fleet.poll(SILENT_POLLS, c=SILENT, d=SILENT) == {"b", "c"}
    fleet.now += PERIOD_S
    assert fleet.poll(c=SILENT, d=SILENT) == {"c", "d"}


@pytest.mark.parametrize(
    ("outcomes", "answer"),
    [
        ([Outcome.SILENT, Outcome.SILENT], SILENT),
        ([Outcome.SILENT, Outcome.REFUSED], ALIVE),
        ([Outcome.MUTE, Outcome.SILENT], ALIVE),
        ([Outcome.NOT_READY, Outcome.NOT_READY], ALIVE),
        ([Outcome.REFUSED, Outcome.READY], READY),
    ],
)
def test_the_answer_of_a_host_summarizes_its_workers(outcomes, answer):
    assert of_host(outcomes) is answer
