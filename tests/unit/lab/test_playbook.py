# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A playbook's events reach the verb, and its output a log whose end is shown when something fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from verbs import playbook
from verbs.playbook import ProgramError
from verbs.progress import Turns

_PLAYBOOK = """
- name: One play
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Say it
      ansible.builtin.debug:
        msg: "Worker 80 of localhost, 1 of 2: ready, 126 connections. {{ 'long ' * 40 }}"
    - name: Fail
      ansible.builtin.fail:
        msg: the reason
      when: fails | default(true)
"""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(playbook, "ROOT", tmp_path)
    monkeypatch.setattr(playbook, "UP", tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    (tmp_path / "inventory").write_text("localhost ansible_connection=local\n")
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks/site.yml").write_text(_PLAYBOOK)
    return tmp_path


def test_events_come_with_what_tasks_say_and_a_failure_shows_the_end_of_the_log(fleet: Path) -> None:
    log = fleet / "ansible.log"
    events: list[dict[str, str]] = []
    with pytest.raises(ProgramError) as failed:
        playbook.play("site", log, events.append, lambda: None)
    turns = Turns()
    assert [event["event"] for event in events] == ["play", "task", "result", "task", "result"]
    assert [event["name"] for event in events if event["event"] == "task"] == ["Say it", "Fail"]
    assert [event["status"] for event in events if event["event"] == "result"] == ["ok", "failed"]
    assert turns.feed(events[2]).startswith("Worker 80 of localhost, 1 of 2: ready, 126 connections. long long")
    report = failed.value.report()
    assert "the reason" in report
    assert report.endswith(f"playbooks/site.yml failed with status 2. All of its output: {log}")
    assert "PLAY RECAP" in log.read_text()
    assert list(fleet.glob("events-*")) == []


def test_a_program_that_fails_is_named_with_the_end_of_its_output(fleet: Path) -> None:
    log = fleet / "lab.log"
    playbook.run("Say hello", ["echo", "hello"], log, lambda: None)
    with pytest.raises(ProgramError, match="Break failed with status 3") as failed:
        playbook.run("Break", ["sh", "-c", "echo the reason; exit 3"], log, lambda: None)
    assert log.read_text() == "hello\nthe reason\n"
    assert "the reason" in failed.value.report()
