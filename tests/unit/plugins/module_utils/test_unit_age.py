# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Which units are started or restarted, and for which files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils import _unit_age
from ansible_collections.selfhost.websocket.plugins.module_utils._unit_age import Plan, SystemdError, Unit

RUNNING = """MainPID=4242
LoadState=loaded
ActiveState=active
NeedDaemonReload=no
ExecMainStartTimestamp=Mon 2026-11-30 17:06:48.123456 UTC
"""
STARTED_NS = 1796058408_123456_000


def changed(**properties: str) -> str:
    said = dict(line.split("=", 1) for line in RUNNING.splitlines())
    return "".join(f"{name}={value}\n" for name, value in (said | properties).items())


def write(path: Path, ns: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, ns=(ns, ns))
    return str(path)


def test_the_start_of_a_process_is_known_to_the_microsecond():
    assert _unit_age.parse(RUNNING) == Unit(exists=True, running=True, stale=False, started_ns=STARTED_NS)


@pytest.mark.parametrize(
    ("properties", "running"),
    [
        pytest.param({"ActiveState": "inactive", "MainPID": "0"}, False, id="stopped"),
        pytest.param({"ActiveState": "failed", "MainPID": "0"}, False, id="failed"),
        pytest.param({"ActiveState": "activating", "MainPID": "0"}, False, id="waits for its next start"),
        pytest.param({"ActiveState": "deactivating"}, False, id="stops"),
        pytest.param({"ActiveState": "activating"}, True, id="starts"),
        pytest.param({"ActiveState": "reloading"}, True, id="reloads"),
    ],
)
def test_which_units_run(properties, running):
    unit = _unit_age.parse(changed(**properties))
    assert (unit.exists, unit.running) == (True, running)


def test_the_start_of_a_process_that_has_ended_does_not_count():
    assert _unit_age.parse(changed(ActiveState="active", MainPID="0")).started_ns is None


def test_a_unit_that_does_not_exist():
    unit = _unit_age.parse(
        "MainPID=0\nLoadState=not-found\nActiveState=inactive\nNeedDaemonReload=no\nExecMainStartTimestamp=\n"
    )
    assert unit == Unit(exists=False, running=False, stale=False, started_ns=None)


def test_a_timestamp_of_another_form_is_an_error():
    with pytest.raises(SystemdError, match="'yesterday'"):
        _unit_age.parse(changed(ExecMainStartTimestamp="yesterday"))


def test_a_file_counts_from_the_microsecond_after_the_start(tmp_path):
    """The same second neither causes nor prevents a restart."""
    older = write(tmp_path / "older", STARTED_NS - 1000)
    equal = write(tmp_path / "equal", STARTED_NS)
    later = write(tmp_path / "later", STARTED_NS + 1000)
    assert _unit_age.newer([older, equal, later], STARTED_NS) == [later]


def test_a_directory_counts_with_its_contents(tmp_path):
    inside = write(tmp_path / "settings/deep/ws.yml", STARTED_NS + 1)
    write(tmp_path / "settings/other.yml", STARTED_NS - 1)
    write(tmp_path / "settings/deep", STARTED_NS - 1)
    settings = write(tmp_path / "settings", STARTED_NS - 1)
    assert _unit_age.newer([settings], STARTED_NS) == [inside]
    write(tmp_path / "settings", STARTED_NS + 1)  # like the removal of a file
    assert _unit_age.newer([settings], STARTED_NS) == [settings, inside]


def test_a_link_counts_when_it_names_another_file(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(write(tmp_path / "file", STARTED_NS - 1))
    os.utime(link, ns=(STARTED_NS - 1, STARTED_NS - 1), follow_symlinks=False)
    assert _unit_age.newer([str(link)], STARTED_NS) == []
    write(tmp_path / "file", STARTED_NS + 1)
    assert _unit_age.newer([str(link)], STARTED_NS) == [str(link)]
    write(tmp_path / "file", STARTED_NS - 1)
    os.utime(link, ns=(STARTED_NS + 1, STARTED_NS + 1), follow_symlinks=False)
    assert _unit_age.newer([str(link)], STARTED_NS) == [str(link)]


def test_a_missing_path_does_not_count(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.utime(tmp_path / "link", ns=(0, 0), follow_symlinks=False)
    assert _unit_age.newer([str(tmp_path / "absent"), str(tmp_path / "link")], STARTED_NS) == []


NOTHING = Plan(reload_systemd=False, enable=False, action=None)


@pytest.mark.parametrize(
    ("unit", "enabled", "written_ns", "plan"),
    [
        pytest.param(Unit(True, True, False, STARTED_NS), True, STARTED_NS - 1, NOTHING, id="current"),
        pytest.param(Unit(True, True, False, STARTED_NS), False, 0, Plan(False, True, None), id="not enabled"),
        pytest.param(Unit(True, False, False, None), True, 0, Plan(False, False, "start"), id="stopped"),
        pytest.param(Unit(True, False, True, None), False, 0, Plan(True, True, "start"), id="never started"),
        pytest.param(Unit(True, True, True, STARTED_NS), True, 0, Plan(True, False, "restart"), id="unit has changed"),
        pytest.param(Unit(True, True, False, None), True, STARTED_NS, NOTHING, id="no main process"),
    ],
)
def test_the_plan_for_a_unit(tmp_path, unit, enabled, written_ns, plan):
    assert _unit_age.plan(unit, enabled, [write(tmp_path / "ws.conf", written_ns)]) == plan


def test_a_process_that_has_not_read_a_file_is_restarted(tmp_path):
    file = write(tmp_path / "ws.conf", STARTED_NS + 1)
    plan = _unit_age.plan(Unit(True, True, False, STARTED_NS), True, [file])
    assert plan == Plan(reload_systemd=False, enable=False, action="restart", newer=(file,))
