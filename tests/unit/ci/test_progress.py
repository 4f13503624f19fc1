# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
from __future__ import annotations

from pathlib import Path

import pytest
from progress import Progress


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "stage.log"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["--- mypy"], "mypy"),
        (
            ["INFO     [debian13 > converge] Executing", "TASK [redis : Install Redis] *****"],
            "debian13 > converge: redis : Install Redis",
        ),
        (["RUNNING HANDLER [nginx : Reload nginx] ***"], "nginx : Reload nginx"),
        (
            ["--- tests/fleet", "test_host.py::test_sysctl PASSED             [ 12%]"],
            "tests/fleet: test_host.py::test_sysctl",
        ),
        (["[gw1] [ 45%] PASSED tests/test_hub.py::test_order[one two] "], "45% test_hub.py::test_order[one two]"),
        (["--- one", "test_a.py::test_b PASSED [ 1%]", "--- two"], "two"),
        (["anything else", "  test_a.py::not at the beginning"], ""),
    ],
    ids=["a step", "a task", "a handler", "a test", "a test under xdist", "the next step", "neither"],
)
def test_the_last_step_and_what_it_does_are_shown(log: Path, lines: list[str], shown: str) -> None:
    progress = Progress(log)
    log.write_text("\n".join(lines) + "\n")
    progress.read()
    assert str(progress) == shown


def test_each_failed_test_is_reported_once(log: Path) -> None:
    progress = Progress(log)
    with log.open("a") as stage:
        stage.write("test_a.py::test_one FAILED [ 10%]\ntest_a.py::test_two PASSED [ 20%]\n")
        stage.flush()
        assert progress.read() == ["test_a.py::test_one"]
        stage.write(
            "[gw0] [ 30%] FAILED tests/test_b.py::test_three \n[gw0] [ 31%] ERROR tests/test_b.py::test_four \n"
        )
        stage.flush()
        assert progress.read() == ["tests/test_b.py::test_three", "tests/test_b.py::test_four"]
    assert progress.read() == []
    assert len(progress.failed) == 3


def test_an_incomplete_line_waits_for_its_rest(log: Path) -> None:
    progress = Progress(log)
    with log.open("a") as stage:
        stage.write("--- ruff\n--- my")
        stage.flush()
        progress.read()
        assert progress.step == "ruff"
        stage.write("py\n")
        stage.flush()
        progress.read()
    assert progress.step == "mypy"


def test_the_test_that_runs_is_shown(log: Path) -> None:
    progress = Progress(log)
    log.write_text("--- tests/fleet\ntest_a.py::test_one PASSED [ 1%]\ntest_a.py::test_two ")
    assert progress.read() == []
    assert str(progress) == "tests/fleet: test_a.py::test_two"
