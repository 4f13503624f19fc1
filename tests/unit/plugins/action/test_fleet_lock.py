# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""fleet_lock in real runs of ansible-playbook on this machine: ended, killed and living runs."""

from __future__ import annotations

import getpass
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import ROOT, eventually

from ansible_collections.selfhost.websocket.plugins.action import fleet_lock
from ansible_collections.selfhost.websocket.plugins.action.fleet_lock import is_over, this_run

FORK = multiprocessing.get_context("fork")
ME = f"{getpass.getuser()}@{socket.gethostname()}"
HELD = {"state": "held"}


class Run:
    """A play of tasks, each fleet_lock with options or a wait for a file."""

    def __init__(self, directory: Path, steps: list[dict | Path], check: bool) -> None:
        tasks = [
            {"ansible.builtin.wait_for": {"path": str(step), "timeout": 240, "sleep": 1}}
            if isinstance(step, Path)
            else {"selfhost.websocket.fleet_lock": {"path": str(directory / "lock"), **step}, "ignore_errors": True}
            for step in steps
        ]
        play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
        playbook = directory / f"{time.monotonic_ns()}.json"
        playbook.write_text(json.dumps([play]))
        self._output = playbook.with_suffix(".out")
        settings = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "lab/collections"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [
                    *(Path(sys.executable).with_name("ansible-playbook"), playbook, *(["--check"] if check else [])),
                    *("--extra-vars", json.dumps({"ansible_python_interpreter": sys.executable})),
                ],
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def results(self) -> list[dict]:
        """The results of the tasks, once the run has ended."""
        self.process.wait(240)
        text = self._output.read_text()
        report = json.loads(text[text.index("{\n") : text.rindex("}") + 1])
        return [task["hosts"]["localhost"] for task in report["plays"][0]["tasks"]]

    @property
    def output(self) -> str:
        return self._output.read_text()

    def remove(self) -> None:
        """Remove the run and the remains of a killed run."""
        if self.process.poll() is None:
            self.process.kill()
        for line in subprocess.run(
            ["ps", "-eo", "pid=,sid="], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines():
            pid, session = map(int, line.split())
            if session == self.process.pid:
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture
def play(tmp_path: Path) -> Iterator:
    started = []

    def start(*steps: dict | Path, check: bool = False) -> Run:
        started.append(Run(tmp_path, list(steps), check))
        return started[-1]

    yield start
    for run in started:
        run.remove()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def go_on(tmp_path: Path) -> Path:
    """The file that a run waits for."""
    return tmp_path / "go-on"


def wait_until_taken(path: Path) -> None:
    eventually(path.exists, "the lock is taken")


def test_a_run_takes_keeps_and_releases_the_lock(play, path):
    took, again, kept, gave, gave_again = play(
        {"reason": "an update"}, {"reason": "an update"}, HELD, {"state": "absent"}, {"state": "absent"}
    ).results()
    assert [result["changed"] for result in (took, again, kept, gave, gave_again)] == [True, False, False, True, False]
    assert not [result for result in (took, again, kept, gave, gave_again) if result.get("failed")]
    assert not path.exists()


def test_the_lock_of_a_killed_or_ended_run_is_taken_over(play, path, go_on):
    killed = play({"reason": "an update"}, go_on)
    wait_until_taken(path)
    killed.process.kill()  # the process is a zombie until its parent waits for it
    dry = play({"reason": "a look"}, HELD, check=True)
    (would_take, would_keep) = dry.results()
    assert (would_take["changed"], would_take["holder"]["reason"]) == (True, "an update"), would_take
    assert not would_keep.get("failed"), would_keep
    assert json.loads(path.read_text())["reason"] == "an update"

    ended = play({"reason": "a restart"})
    (took,) = ended.results()
    assert (took["changed"], took["holder"]["owner"]) == (True, ME), took
    assert f"The lock of {ME} (an update) is taken over: that run has ended." in ended.output

    killed.process.wait(60)
    (took,) = play({}).results()
    assert (took["changed"], took["holder"]["reason"]) == (True, "a restart")


def test_the_lock_of_a_living_run_is_respected_until_an_operator_breaks_it(play, path, go_on):
    living = play({"reason": "an update"}, go_on, HELD, {})
    wait_until_taken(path)

    for check in (False, True):
        (refused,) = play({"reason": "a restart"}, check=check).results()
        assert refused["failed"]
        assert refused["holder"]["owner"] == ME
        assert refused["msg"].startswith(f"{ME} is changing this fleet (an update). That run began "), refused["msg"]
        assert f" s ago (lock {path} on localhost). Wait until it is done." in refused["msg"]
        assert "run this playbook again with -e ws_lock_break=true" in refused["msg"]
    assert json.loads(path.read_text())["reason"] == "an update"

    breaker = play({"reason": "a restart", "break": True})
    (broke,) = breaker.results()
    assert (broke["changed"], broke["holder"]["reason"]) == (True, "an update"), broke
    assert f"The lock of {ME} (an update) is taken over: that run is declared over." in breaker.output

    # The other run has ended, and its lock would be free for a third run. This run has lost the
    # lock.
    go_on.touch()
    _took, _waited, kept, retaken = living.results()
    assert kept["failed"]
    assert kept["msg"].startswith(f"{ME} has taken the lock of the fleet from this run ")
    assert "(a restart)" in kept["msg"]
    assert retaken["changed"], "a new request is like one of any other run"


def test_a_broken_and_released_lock_is_lost_too(play, path, go_on):
    living = play({"reason": "an update"}, go_on, HELD)
    wait_until_taken(path)
    broke, gave = play({"break": True}, {"state": "absent"}).results()
    assert (broke["changed"], gave["changed"]) == (True, True)
    go_on.touch()
    _took, _waited, kept = living.results()
    assert kept["failed"]
    assert kept["msg"].startswith("This run no longer has the fleet's lock: another run took it and has given it back")
    assert not path.exists()


def test_a_run_on_another_machine_is_not_assumed_to_be_over(play, path, own_child):
    elsewhere = own_child.replace(socket.gethostname(), "another", 1)
    now = time.time()
    path.write_text(
        json.dumps(
            {"run": elsewhere, "owner": "alice@another", "reason": "an update", "since": now - 3600, "seen": now - 600}
        )
    )
    (refused,) = play({}).results()
    assert refused["failed"]
    assert refused["msg"].startswith(
        "alice@another is changing this fleet (an update). That run began 60 min ago, and it last renewed the lock 10 min ago"
    )


# The identity of a run, and whether it is over.


def changed(run: str, part: int, value: str) -> str:
    parts = run.split(" ")
    return " ".join([*parts[:part], value, *parts[part + 1 :]])


@pytest.fixture
def own_child() -> Iterator[str]:
    """The identity of this process, as computed by a child process."""
    told = FORK.Queue()
    child = FORK.Process(target=lambda: told.put(this_run()))
    child.start()
    yield told.get(timeout=60)
    child.join(60)


def test_a_run_is_the_process_whose_children_its_tasks_are(own_child):
    assert own_child.split(" ")[3] == str(os.getpid())
    assert not is_over(own_child)


@pytest.mark.parametrize(
    ("part", "value", "over"),
    [
        (0, "another/0123", False),
        (1, "another boot", False),  # five words more: not what this release wrote
        (1, "another-boot", True),
        (1, "?", False),
        (2, "pid:[1]", False),
        (3, "4194305", True),  # more than any process has
        (3, "x", False),
        (4, "1", True),
        (4, "?", True),
    ],
)
def test_which_other_runs_are_known_to_be_over(own_child, part, value, over):
    assert is_over(changed(own_child, part, value)) is over


def test_without_proc_no_run_is_known_to_be_over(own_child, monkeypatch, tmp_path):
    monkeypatch.setattr(fleet_lock, "_PROC", tmp_path)
    assert not is_over(own_child)
    assert not is_over(changed(own_child, 1, "?"))


def test_a_process_hidden_in_proc_may_live(own_child, monkeypatch):
    """The process belongs to another user, whose processes the machine hides."""
    monkeypatch.setattr(fleet_lock, "_status", lambda pid: None)
    assert not is_over(own_child)
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert is_over(changed(own_child, 3, str(gone.pid)))


def test_a_task_that_outlives_its_run_takes_nothing_in_the_name_of_init():
    told = FORK.Queue()

    def task(parent: int) -> None:
        eventually(lambda: os.getppid() != parent, "the run has ended")
        told.put((parent, this_run()))

    def killed_run() -> None:
        FORK.Process(target=task, args=(os.getpid(),)).start()
        os.kill(os.getpid(), signal.SIGKILL)

    run = FORK.Process(target=killed_run)
    run.start()
    run.join(60)
    pid, name = told.get(timeout=60)
    assert name.split(" ")[3] == str(pid)
    assert is_over(name)
