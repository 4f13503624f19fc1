# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Recorded output of systemd, the same for 257 on Debian 13 and 252 on Debian 12."""

from __future__ import annotations

import pytest
from hosts import DEAD

from ansible_collections.selfhost.websocket.plugins.module_utils._unit import SystemdError, parse, show

READY = """MainPID=103
Result=success
NRestarts=0
ExecMainStartTimestamp=@1795530617
ExecMainCode=0
ExecMainStatus=0
LoadState=loaded
ActiveState=active
SubState=running
Job=
"""
STARTING = """MainPID=113
Result=success
NRestarts=0
ExecMainStartTimestamp=@1795530617
ExecMainCode=0
ExecMainStatus=0
LoadState=loaded
ActiveState=activating
SubState=start
Job=259
"""
REFUSES_ITS_SETTINGS = """MainPID=0
Result=exit-code
NRestarts=0
ExecMainStartTimestamp=@1795530617
ExecMainCode=1
ExecMainStatus=2
LoadState=loaded
ActiveState=failed
SubState=failed
Job=
"""
CRASHED = """MainPID=0
Result=exit-code
NRestarts=3
ExecMainStartTimestamp=@1795530624
ExecMainCode=1
ExecMainStatus=1
LoadState=loaded
ActiveState=activating
SubState=auto-restart
Job=
"""
NEVER_READY = """MainPID=0
Result=timeout
NRestarts=1
ExecMainStartTimestamp=@1795530622
ExecMainCode=2
ExecMainStatus=15
LoadState=loaded
ActiveState=activating
SubState=auto-restart
Job=
"""
KILLED = """MainPID=0
Result=signal
NRestarts=3
ExecMainStartTimestamp=@1795530625
ExecMainCode=2
ExecMainStatus=9
LoadState=loaded
ActiveState=activating
SubState=auto-restart
Job=
"""
WITHOUT_SETTINGS = """MainPID=0
Result=resources
NRestarts=0
ExecMainStartTimestamp=
ExecMainCode=0
ExecMainStatus=0
LoadState=loaded
ActiveState=activating
SubState=auto-restart
Job=
"""
ENDED_BEFORE_IT_WAS_READY = """MainPID=0
Result=protocol
NRestarts=0
ExecMainStartTimestamp=@1795530617
ExecMainCode=1
ExecMainStatus=0
LoadState=loaded
ActiveState=activating
SubState=auto-restart
Job=
"""
UNKNOWN = DEAD.replace("LoadState=loaded", "LoadState=not-found")
MASKED = DEAD.replace("LoadState=loaded", "LoadState=masked")


def test_a_ready_worker():
    unit = parse(READY)
    assert (unit.exists, unit.serves, unit.active, unit.sub) == (True, True, "active", "running")
    assert (unit.pid, unit.started_at, unit.restarts, unit.job, unit.end) == (103, 1795530617, 0, False, "")


def test_a_starting_worker():
    unit = parse(STARTING)
    assert (unit.serves, unit.active, unit.sub, unit.pid, unit.job) == (False, "activating", "start", 113, True)


def test_a_stopped_worker():
    unit = parse(DEAD)
    assert (unit.exists, unit.serves, unit.active) == (True, False, "inactive")
    assert (unit.pid, unit.started_at, unit.job, unit.end) == (None, None, False, "")


@pytest.mark.parametrize("text", [UNKNOWN, MASKED])
def test_a_unit_that_cannot_be_loaded(text):
    assert not parse(text).exists


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (REFUSES_ITS_SETTINGS, "ended with exit status 2: it refuses its settings"),
        (CRASHED, "ended with exit status 1"),
        (NEVER_READY, "did not start or stop in time"),
        (KILLED, "was ended by signal 9"),
        (WITHOUT_SETTINGS, "could not be set up: a file that its unit needs is missing"),
        (ENDED_BEFORE_IT_WAS_READY, "ended before it was ready"),
        (
            CRASHED.replace("ExecMainStatus=1", "ExecMainStatus=203"),
            "ended with exit status 203: its program cannot be started",
        ),
        (DEAD.replace("Result=success", "Result=start-limit-hit"), "failed (start-limit-hit)"),
    ],
)
def test_how_a_process_ended(text, end):
    unit = parse(text)
    assert unit.end == end
    assert (unit.pid, unit.started_at, unit.serves) == (None, None, False)


def test_restarts_are_counted():
    assert parse(CRASHED).restarts == 3


def test_several_units_are_read_at_once():
    asked = []

    def run(argv):
        asked.append(argv)
        return 0, f"{READY}\n{CRASHED}", ""

    units = show(run, ["ws-server@80.service", "ws-server@81.service"])
    assert [unit.active for unit in units] == ["active", "activating"]
    assert len(asked) == 1
    assert asked[0][:3] == ["systemctl", "show", "--timestamp=unix"]
    assert asked[0][-2:] == ["ws-server@80.service", "ws-server@81.service"]


def test_a_systemd_that_does_not_answer_is_an_error():
    with pytest.raises(SystemdError, match=r"^systemctl show failed: Failed to connect to bus$"):
        show(lambda argv: (1, "", "Failed to connect to bus\n"), ["x.service"])
    with pytest.raises(SystemdError, match=r"^systemctl show failed: 1$"):
        show(lambda argv: (1, "", ""), ["x.service"])
    with pytest.raises(SystemdError, match=r"^systemctl show described 1 units instead of 2$"):
        show(lambda argv: (0, READY, ""), ["x.service", "y.service"])
