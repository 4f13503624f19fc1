# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The texts of `make up` and `make roll` about events."""

from __future__ import annotations

import io
import re

import pytest
from program import ROOT
from verbs.console import Console
from verbs.progress import Plays, Step, Turns, Witnessed, clock, next_playbook, step_line, witnessed

_SEES = "12 s, 503 of 504 connected, 1204 acknowledged, 2 not yet, 12030 delivered, 7 on their way"


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (7.9, "0:07"), (60, "1:00"), (754, "12:34")])
def test_the_clock_shows_minutes_and_seconds(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_a_step_has_its_end_its_name_and_its_duration() -> None:
    assert step_line(72, "Deploy Redis", 12.4).split() == ["1:12", "Deploy", "Redis", "12", "s"]


def test_each_play_is_a_step_unless_no_host_had_anything_to_do() -> None:
    plays = Plays(10)
    assert plays.feed({"event": "play", "name": "Check everything first"}, 10) == []
    assert plays.feed({"event": "task", "name": "selfhost.websocket.redis : Check the version"}, 10) == []
    assert plays.where == "Check everything first: Check the version"
    assert plays.feed({"event": "result", "host": "fleet", "status": "ok", "said": ""}, 11) == []
    assert plays.feed({"event": "play", "name": "Nothing here"}, 14) == [Step("Check everything first", 4)]
    assert plays.where == "Nothing here"
    assert plays.feed({"event": "play", "name": "Deploy Redis"}, 15) == []
    plays.feed({"event": "result", "host": "fleet", "status": "ok", "said": ""}, 16)
    assert plays.finish(20) == [Step("Deploy Redis", 5)]
    assert plays.finish(20) == []


def test_the_last_line_of_the_witness_counts() -> None:
    assert witnessed("") is None
    assert witnessed("ws-server: cannot connect\n") is None
    sees = witnessed(f"1 s, 20 of 504 connected, 0 acknowledged, 0 not yet, 0 delivered, 0 on their way\n{_SEES}   \n")
    assert sees == Witnessed(connected=503, clients=504, acknowledged=1204, owed=7)
    assert str(sees) == "503 of 504 clients connected, 1,204 messages acknowledged, 7 on their way"


@pytest.mark.parametrize(("connected", "acknowledged", "ready"), [(504, 1, True), (504, 0, False), (503, 10, False)])
def test_the_witness_is_ready_when_all_clients_are_in_and_messages_flow(
    connected: int, acknowledged: int, ready: bool
) -> None:
    assert Witnessed(connected, 504, acknowledged, 0).ready is ready


def test_a_turn_shows_the_worker_its_clients_the_time_and_what_clients_see() -> None:
    turns = Turns()
    assert turns.live("Check everything first", 3, None) == "0:03 · Check everything first"
    said = "Worker 81 of fleet, 2 of 4: ready, 126 connections.\n9.5 s so far, about 29 s to go."
    assert turns.feed({"event": "result", "said": said}) == said.replace("\n", " ")
    assert turns.begun == 1
    assert turns.live("Roll the workers", 42, witnessed(_SEES)) == (
        "0:42 · worker 2 of 4 (81 on fleet, 126 connections) · "
        "503 of 504 clients connected, 1,204 messages acknowledged, 7 on their way"
    )


def test_make_roll_parses_the_roles_message_about_a_replacement() -> None:
    tasks = "\n".join(path.read_text() for path in (ROOT / "roles/ws_server/tasks").glob("*.yml"))
    value = r"\{\{[^}]+\}\}"
    [turn] = re.findall(rf"Worker {value} of {value}, {value} of {value}:.*\n.*\bconnections\b", tasks)
    said = " ".join(re.sub(value, "7", turn).split())
    turns = Turns()
    turns.feed({"event": "result", "said": said})
    assert turns.live("", 0, None) == "0:00 · worker 7 of 7 (7 on 7, 7 connections)"


def test_only_messages_about_workers_are_shown() -> None:
    turns = Turns()
    assert turns.feed({"event": "result", "said": "The lock was free."}) == ""
    assert turns.feed({"event": "task", "name": "Worker 80 of fleet"}) == ""
    assert turns.feed({"event": "result", "said": "Worker 80 of fleet is 1.0-12345678, after 9.1 s"}) != ""
    assert turns.begun == 0


@pytest.mark.parametrize(
    ("asked", "done", "following"),
    [
        ("", [], "rolling_update"),
        ("", [("rolling_update", 4)], None),
        ("", [("rolling_update", 0)], "rolling_restart"),
        ("", [("rolling_update", 0), ("rolling_restart", 4)], None),
        ("", [("rolling_update", 0), ("rolling_restart", 0)], None),
        ("rolling_update", [], "rolling_update"),
        ("rolling_update", [("rolling_update", 0)], None),
        ("rollback", [], "rollback"),
        ("rollback", [("rollback", 4)], None),
    ],
    ids=lambda value: value or "none" if isinstance(value, str) else None,
)
def test_a_roll_always_replaces_workers_by_default(
    asked: str, done: list[tuple[str, int]], following: str | None
) -> None:
    assert next_playbook(asked, done) == following


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_live_line_below_permanent_lines() -> None:
    stream = _Terminal()
    console = Console(stream)
    console.live("one" * 200)
    console.line("done")
    console.live("two")
    console.clear()
    live, done, two, end = stream.getvalue().split("\r\x1b[K")[1:]
    assert len(live) < 200
    assert (done, two, end) == ("done\n", "two", "")


def test_without_a_terminal_the_live_line_is_printed_sometimes() -> None:
    now = 0.0
    stream = io.StringIO()
    console = Console(stream, lambda: now)
    for second in range(40):
        now = float(second)
        console.live(f"after {second} s")
    console.line("done")
    console.clear()
    assert stream.getvalue().splitlines() == ["after 15 s", "after 30 s", "done"]
