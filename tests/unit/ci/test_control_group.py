# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
from __future__ import annotations

from pathlib import Path

import pytest
from control_group import ControlGroup, read_cpu_seconds


def test_cpu_seconds_are_read_from_the_groups_statistics(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    assert read_cpu_seconds(tmp_path) == pytest.approx(1.5)


def test_a_machine_with_both_versions_has_version_2_in_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("control_group.MOUNT", tmp_path)
    assert ControlGroup("ws-test/1").path == tmp_path / "unified/ws-test/1"
    (tmp_path / "cgroup.controllers").touch()
    assert ControlGroup("ws-test/1").path == tmp_path / "ws-test/1"
