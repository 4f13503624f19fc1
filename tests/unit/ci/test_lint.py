# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The clean result of a slow linter is cached until a file that it reads changes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from program import ROOT


@pytest.fixture
def lint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """ci/lint.py over a tree of two files, with its own cache."""
    spec = importlib.util.spec_from_file_location("lint", ROOT / "ci/lint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lint", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    module.CACHE.joinpath("clean").mkdir(parents=True)
    for name in ("roles.yml", "notes.md"):
        tmp_path.joinpath(name).write_text("one")
    return module


def runs(lint: ModuleType, command: str = "true") -> bool:
    """Whether the linter ran: each run adds a line to a file that it does not read."""
    log = lint.ROOT / "log"
    before = log.read_text() if log.exists() else ""
    linter = lint.Linter("some linter", ("sh", "-c", f"echo ran >>log; {command}"), ("*.yml",))
    assert lint.is_clean(linter, ["notes.md", "roles.yml"]) == (command == "true")
    return (log.read_text() if log.exists() else "") != before


def test_it_runs_again_only_if_a_file_that_it_reads_has_changed(lint: ModuleType) -> None:
    assert runs(lint)
    assert not runs(lint)
    lint.ROOT.joinpath("notes.md").write_text("two")
    assert not runs(lint)
    lint.ROOT.joinpath("roles.yml").write_text("two")
    assert runs(lint)


def test_a_failure_is_not_remembered(lint: ModuleType) -> None:
    assert runs(lint, "false")
    assert runs(lint, "false")


def test_all_files_that_are_packed_are_read_by_sanity(lint: ModuleType) -> None:
    """ansible-test must not see a file that is missing in the digest."""
    [sanity] = [linter for linter in lint.LINTERS if "sanity" in linter.name]
    ignored = (ROOT / "galaxy.yml").read_text().partition("build_ignore:")[2]
    for pattern in sanity.but:
        assert f"- {pattern.removesuffix('/*')}\n" in ignored


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("{{ hosts | map('upper') | list }}", True),
        ("{% for host in hosts %}server {{ host }};{% endfor %}", True),
        ("{% set value = hosts | first %}", True),
        ("{% set _ = found.append(host) %}", False),
        ("{% set _ = found.update({host: 1}) %}", False),
        ("{%- do found.extend(hosts) %}", False),
    ],
)
@pytest.mark.parametrize("file", ["roles/redis/templates/redis.conf.j2", "playbooks/vars/fleet.yml"])
def test_a_loop_in_jinja_collects_no_values(lint: ModuleType, file: str, line: str, clean: bool) -> None:
    [linter] = [linter for linter in lint.LINTERS if linter.name == "Jinja loops"]
    for directory in ("roles", "playbooks"):
        lint.ROOT.joinpath(directory).mkdir()
    path = lint.ROOT / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"before\n{line}\n")
    assert lint.is_clean(linter, []) == clean
