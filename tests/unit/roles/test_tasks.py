# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Rules for the tasks of all roles and playbooks that ansible-lint does not know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from program import ROOT

FILES = sorted(
    [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("roles/*/handlers/*.yml"), *ROOT.glob("playbooks/**/*.yml")]
)


def tasks(found: Any) -> Iterator[dict[str, Any]]:
    """All mappings of a file, in any depth. Each task is a mapping."""
    if isinstance(found, dict):
        yield found
        for value in found.values():
            yield from tasks(value)
    elif isinstance(found, list):
        for value in found:
            yield from tasks(value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_task_that_is_to_be_repeated_is_repeated(file: Path) -> None:
    """Ansible evaluates failed_when before until: with failed_when false, the first attempt "is
    success" and the last."""
    for task in tasks(yaml.safe_load(file.read_text())):
        if "until" in task and task.get("failed_when") is False:
            until = " ".join([task["until"]] if isinstance(task["until"], str) else task["until"])
            assert not re.search(r"\bis (not )?(success|succeeded|failed|failure)\b", until), task["name"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_unreachable_host_that_is_ignored_does_not_end_the_play(file: Path) -> None:
    """In ansible-core 2.19, a task that ignores an unreachable host ends its play with success if
    run_once or any_errors_fatal holds for it."""
    found = list(tasks(yaml.safe_load(file.read_text())))
    fatal = any(play.get("any_errors_fatal") is True for play in found)
    for task in found:
        if task.get("ignore_unreachable"):
            assert not task.get("run_once"), task["name"]
            assert not fatal or task.get("any_errors_fatal") is False, task["name"]
