# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A playbook that takes the fleet's lock has it until nothing is left to do, whatever part of it --tags asks for."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from program import ROOT

PLAYBOOKS = ROOT / "playbooks"


def plays(path: str) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = yaml.safe_load((PLAYBOOKS / path).read_text())
    return contents


# That of host_maintenance.yml is given back by its only play, also when that fails.
@pytest.mark.parametrize("playbook", ["site", "rolling_update", "rolling_restart", "rollback"])
def test_the_lock_is_given_back_last(playbook):
    steps = [play.get("ansible.builtin.import_playbook", play.get("hosts")) for play in plays(f"{playbook}.yml")]
    assert steps.count("parts/lock.yml") == 1
    assert steps.index("parts/unlock.yml") == len(steps) - 1


def test_what_is_not_taken_is_not_given_back():
    (taken,), (given,) = plays("parts/lock.yml"), plays("parts/unlock.yml")
    assert taken["tags"] == given["tags"] == "ws_server"
