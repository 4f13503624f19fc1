# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The file of the lock: its owner, and concurrent runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._lock import HeldError, Lock, LockError, LostError

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet" / "lock"


class At:
    """The host's clock."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def at() -> At:
    return At(1795529805.0)


@pytest.fixture
def lock(path: Path, at: At) -> Lock:
    return Lock(str(path), at)


def holder(lock: Lock) -> dict:
    """The holder, as another run sees it."""
    with pytest.raises(HeldError) as held:
        lock.acquire("another run", "eve@pc", "")
    return held.value.holder


def tree(directory: Path) -> dict:
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in directory.rglob("*")}


def test_a_run_takes_a_free_lock(lock, path):
    assert lock.acquire("run 1", "alice@laptop", "an update")
    assert holder(lock) == {
        "run": "run 1",
        "owner": "alice@laptop",
        "reason": "an update",
        "age_s": 0,
        "silent_s": 0,
    }
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_taking_the_lock_again_renews_it(lock, at):
    lock.acquire("run 1", "alice@laptop", "an update")
    at.now += 60
    assert not lock.acquire("run 1", "alice@laptop", "an update")
    at.now += 5
    assert (holder(lock)["age_s"], holder(lock)["silent_s"]) == (65, 5)


def test_keeping_the_lock_renews_it(lock, at):
    lock.acquire("run 1", "alice@laptop", "an update")
    at.now += 60
    lock.keep("run 1")
    at.now += 5
    told = holder(lock)
    assert (told["age_s"], told["silent_s"], told["reason"]) == (65, 5, "an update")


def test_an_age_is_never_negative(lock, at):
    lock.acquire("run 1", "alice@laptop", "")
    at.now -= 3600
    assert (holder(lock)["age_s"], holder(lock)["silent_s"]) == (0, 0)


def test_another_run_neither_takes_keeps_nor_releases_the_lock(lock, path):
    lock.acquire("run 1", "alice@laptop", "an update")
    before = tree(path.parent)
    with pytest.raises(HeldError):
        lock.acquire("run 2", "bob@pc", "a restart")
    with pytest.raises(HeldError):
        lock.keep("run 2")
    assert not lock.release("run 2")
    assert tree(path.parent) == before


def test_a_released_lock_is_free(lock):
    lock.acquire("run 1", "alice@laptop", "")
    assert lock.release("run 1")
    assert not lock.release("run 1")
    assert lock.acquire("run 2", "bob@pc", "")


def test_the_lock_is_taken_from_a_named_run(lock, at):
    lock.acquire("run 1", "alice@laptop", "an update")
    at.now += 60
    with pytest.raises(HeldError):
        lock.acquire("run 2", "bob@pc", "", instead_of="run 0")
    assert lock.acquire("run 2", "bob@pc", "a restart", instead_of="run 1")
    assert holder(lock) | {"run": "run 2", "owner": "bob@pc", "reason": "a restart", "age_s": 0} == holder(lock)
    with pytest.raises(HeldError) as robbed:
        lock.keep("run 1")
    assert robbed.value.holder["owner"] == "bob@pc"


def test_a_run_that_lost_the_lock_does_not_have_it_when_it_is_free_again(lock, path):
    lock.acquire("run 1", "alice@laptop", "")
    lock.acquire("run 2", "bob@pc", "", instead_of="run 1")
    lock.release("run 2")
    with pytest.raises(LostError):
        lock.keep("run 1")
    assert not path.exists()


@pytest.mark.parametrize("instead_of", [None, "run 0"], ids=["a free lock", "the lock of an ended run"])
def test_of_several_concurrent_runs_one_gets_the_lock(path, instead_of):
    """Each run is a process with a clock that delays the change after the check."""
    if instead_of:
        Lock(str(path)).acquire(instead_of, "", "")
    start, outcomes = FORK.Barrier(4), FORK.Queue()

    def slowly() -> float:
        time.sleep(0.3)
        return time.time()

    def take(run: str) -> None:
        start.wait(60)
        try:
            outcomes.put((run, Lock(str(path), slowly).acquire(run, "", "", instead_of)))
        except HeldError as held:
            outcomes.put((run, held.holder["run"]))

    takers = [FORK.Process(target=take, args=(f"taker {number}",)) for number in range(4)]
    for taker in takers:
        taker.start()
    told = dict(outcomes.get(timeout=60) for _taker in takers)
    for taker in takers:
        taker.join(60)
    (winner,) = (run for run, outcome in told.items() if outcome is True)
    assert sorted(told.values(), key=str) == [True, winner, winner, winner]
    assert json.loads(path.read_text())["run"] == winner


# Check mode.


def test_a_dry_run_does_not_create_the_directory(lock, path):
    assert lock.acquire("run 1", "alice@laptop", "", dry=True)
    assert not lock.release("run 1", dry=True)
    assert not path.parent.exists()


def test_a_dry_run_predicts_and_changes_nothing(lock, path, at):
    lock.acquire("run 1", "alice@laptop", "")
    before = tree(path.parent)
    at.now += 60
    assert not lock.acquire("run 1", "alice@laptop", "other", dry=True)
    assert lock.acquire("run 2", "bob@pc", "", instead_of="run 1", dry=True)
    assert lock.release("run 1", dry=True)
    with pytest.raises(HeldError):
        lock.acquire("run 2", "bob@pc", "", dry=True)
    assert tree(path.parent) == before


# Files that are not a lock.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"alice",
        b"\xff\xfe",
        b"[]",
        b'"run"',
        b'{"run": "run 1", "owner": "alice", "reason": ""}',
        b'{"run": "run 1", "owner": "alice", "reason": "", "since": null, "seen": 1}',
        b'{"run": "run 1", "owner": "alice", "reason": "", "since": NaN, "seen": 1}',
    ],
)
def test_a_file_that_is_something_else_is_left_alone(lock, path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    for use in (
        lambda: lock.acquire("run 1", "alice@laptop", "", instead_of="run 0"),
        lambda: lock.keep("run 1"),
        lambda: lock.release("run 1"),
    ):
        with pytest.raises(LockError) as refused:
            use()
        assert str(refused.value) == (
            f"{path} is not a lock written by this release: remove it if no run is changing the fleet."
        )
    assert path.read_bytes() == content


def test_fields_of_a_later_release_do_no_harm(lock, path):
    lock.acquire("run 1", "alice@laptop", "")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "laptop"}))
    assert holder(lock)["owner"] == "alice@laptop"


def test_the_remains_of_a_killed_run_do_no_harm(lock, path):
    path.parent.mkdir()
    path.with_name(".lock.new").write_text('{"run": "ru')
    assert lock.acquire("run 1", "alice@laptop", "")
    assert list(path.parent.iterdir()) == [path]


def test_an_unusable_path(path):
    path.parent.write_text("")
    with pytest.raises(LockError) as refused:
        Lock(str(path)).acquire("run 1", "alice@laptop", "")
    assert str(refused.value) == f"The lock {path} cannot be used: File exists."


def test_a_user_without_permission(lock, path):
    """Only root may write there."""
    lock.acquire("run 1", "alice@laptop", "")
    said = FORK.Queue()

    def as_nobody() -> None:
        os.seteuid(65534)
        try:
            lock.keep("run 1")
        except LockError as error:
            said.put(str(error))

    child = FORK.Process(target=as_nobody)
    child.start()
    assert said.get(timeout=60) == f"The lock {path} cannot be used: Permission denied. Run this task with become."
    child.join(60)
