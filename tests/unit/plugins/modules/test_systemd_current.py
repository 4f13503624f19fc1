# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""systemd_current with a fake systemctl that records its calls."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hosts import run

from ansible_collections.selfhost.websocket.plugins.modules import systemd_current

# The state is a directory: `loaded`, `on_disk`, `enabled` and `stale` exist or not. `started` has
# the timestamp of a running process.
_SYSTEMCTL = """#!/bin/sh
cd "{0}" || exit
case $1 in
    show)
        [ -e loaded ] && echo LoadState=loaded || echo LoadState=not-found
        [ -e stale ] && echo NeedDaemonReload=yes || echo NeedDaemonReload=no
        [ -e started ] && printf 'ActiveState=active\\nMainPID=42\\nExecMainStartTimestamp=%s\\n' "$(cat started)" ||
            printf 'ActiveState=inactive\\nMainPID=0\\nExecMainStartTimestamp=\\n' ;;
    is-enabled) [ -e enabled ] && echo enabled || {{ echo disabled; exit 1; }} ;;
    *)
        echo "$*" >>calls
        [ ! -e "fails-$1" ] || {{ echo 'Job failed.' >&2; exit 1; }}
        case $1 in
            daemon-reload) rm -f stale; [ ! -e on_disk ] || touch loaded ;;
            enable) touch enabled ;;
            start | restart) date --utc '+%a %Y-%m-%d %H:%M:%S.%6N UTC' >started ;;
        esac ;;
esac
"""


class Systemd:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "systemd"
        self.file = directory / "ws.conf"
        self.file.touch()
        self.directory.mkdir()
        program = directory / "bin/systemctl"
        program.parent.mkdir()
        program.write_text(_SYSTEMCTL.format(self.directory))
        program.chmod(0o755)

    def has(self, *names: str) -> None:
        for name in names:
            (self.directory / name).touch()

    def runs_since(self, ns: int) -> None:
        moment = datetime.fromtimestamp(ns // 10**9, UTC)
        text = f"{moment:%a %Y-%m-%d %H:%M:%S}.{ns // 1000 % 10**6:06} UTC\n"
        (self.directory / "started").write_text(text)

    @property
    def calls(self) -> list[str]:
        calls = self.directory / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def current(self, check: bool = False) -> dict:
        return run(systemd_current, check=check, name="ws.service", files=[str(self.file)])


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    found = Systemd(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return found


def test_a_new_unit_is_enabled_and_started_and_then_left_alone(systemd):
    systemd.has("on_disk")
    result = systemd.current()
    assert (result["changed"], result["action"], result["enabled"]) == (True, "start", True), result
    assert systemd.calls == ["daemon-reload", "enable -- ws.service", "start -- ws.service"]
    result = systemd.current()
    assert (result["changed"], result["action"], result["newer"]) == (False, None, [])
    assert result["diff"] == {"before": {}, "after": {}}
    assert len(systemd.calls) == 3


def test_a_file_written_after_the_start_restarts_once(systemd):
    systemd.has("loaded", "enabled")
    systemd.runs_since(systemd.file.stat().st_mtime_ns - 1000)
    result = systemd.current()
    assert (result["changed"], result["action"], result["newer"]) == (True, "restart", [str(systemd.file)])
    assert result["diff"]["before"] == {"enabled": True, "running": True, "not read": [str(systemd.file)]}
    assert systemd.calls == ["restart -- ws.service"]
    assert systemd.current()["changed"] is False


def test_a_changed_unit_file_is_loaded_and_restarts(systemd):
    """The process may be younger: systemd may have restarted it with the old, loaded unit."""
    systemd.has("loaded", "enabled", "stale")
    systemd.runs_since(systemd.file.stat().st_mtime_ns + 1000)
    result = systemd.current()
    assert (result["action"], result["newer"]) == ("restart", [])
    assert result["diff"]["before"]["not read"] == ["the unit's files"]
    assert systemd.calls == ["daemon-reload", "restart -- ws.service"]


@pytest.mark.parametrize(
    ("state", "action"),
    [
        pytest.param([], "start", id="bare host"),
        pytest.param(["loaded"], "start", id="stopped"),
        pytest.param(["loaded", "enabled", "stale", "started"], "restart", id="unit has changed"),
    ],
)
def test_check_mode_predicts_and_does_nothing(systemd, state, action):
    systemd.has(*state)
    if "started" in state:
        systemd.runs_since(systemd.file.stat().st_mtime_ns + 1000)
    result = systemd.current(check=True)
    assert (result["changed"], result["action"]) == (True, action)
    assert result["diff"]["after"]["running"] is True
    assert systemd.calls == []


def test_a_unit_that_does_not_exist_is_an_error(systemd):
    result = systemd.current()
    assert result["failed"]
    assert result["msg"] == "there is no unit ws.service: install its package or its file first"


def test_a_failed_start_reports_its_cause(systemd):
    systemd.has("loaded", "enabled", "fails-start")
    assert systemd.current()["msg"] == "systemctl start failed: Job failed."
