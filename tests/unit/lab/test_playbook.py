# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The verb gets a playbook's events. The output is in a log, and a failure shows the end of the
log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from program import ROOT, eventually
from verbs import playbook, roll, up
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


@pytest.mark.parametrize("settings", ["", ". lab/fast_ansible.sh"], ids=["ansible", "mitogen"])
def test_events_come_with_what_tasks_say_and_a_failure_shows_the_end_of_the_log(
    fleet: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    environment = subprocess.check_output(["bash", "-ec", f"{settings}\nenv -0"], cwd=ROOT, text=True)
    for name, _, value in (line.partition("=") for line in environment.split("\0")):
        if name.startswith("ANSIBLE_STRATEGY"):
            monkeypatch.setenv(name, value)
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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_what_a_verb_has_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    """The program ends even if the verb is killed, because a playbook would keep the lock of the
    fleet."""
    verb = """
from pathlib import Path
from verbs import playbook
playbook.end_as_on_interrupt()
playbook.run("Wait", ["sh", "-c", "echo $$ >pid; exec sleep 60"], Path("log"), lambda: None)
"""
    pid = tmp_path / "pid"
    command = [sys.executable, "-c", verb.replace(">pid", f">{pid}").replace('"log"', f'"{tmp_path}/log"')]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT / "lab")},
        stderr=subprocess.DEVNULL,
        # As in a terminal. Tests that run in the background ignore SIGINT, and their children
        # would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no threads here)
    )
    eventually(lambda: pid.exists() and pid.read_text().endswith("\n"), "the program runs")
    running = Path("/proc", pid.read_text().strip())
    assert running.exists()
    process.send_signal(number)
    process.wait(30)
    eventually(lambda: not running.exists(), "the program has ended")


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (up, "Interrupted. make up continues from here, and make down removes everything.\n"),
        (roll, "Interrupted. The next make roll completes the rollout.\n"),
    ],
    ids=["up", "roll"],
)
def test_an_interrupted_verb_says_how_to_go_on(
    fleet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: Any, words: str
) -> None:
    def interrupted(*_given: object) -> None:
        raise KeyboardInterrupt

    (fleet / "ca.pem").touch()
    monkeypatch.setattr(verb, "UP", fleet)
    monkeypatch.setattr(verb, verb.__name__.rpartition(".")[2], interrupted)
    monkeypatch.setattr(playbook, "end_as_on_interrupt", lambda: None)
    monkeypatch.setattr(sys, "argv", ["verb", "--run", "run", *(["--began", "0"] if verb is up else [])])
    assert verb.main() == 130
    assert capsys.readouterr().err == words
