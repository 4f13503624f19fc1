# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A playbook holds the fleet's lock until its end, whatever --tags selects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from program import ROOT

PLAYBOOKS = ROOT / "playbooks"
LOCKING = ("parts/lock.yml", "parts/unlock.yml")


def plays(path: str) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = yaml.safe_load((PLAYBOOKS / path).read_text())
    return contents


def expanded(path: str) -> Iterator[str]:
    """The hosts of each play, or the part that takes or releases the lock."""
    for play in plays(path):
        part = play.get("ansible.builtin.import_playbook")
        if part is None:
            yield play["hosts"]
            continue
        part = (PLAYBOOKS / path).parent.joinpath(part).relative_to(PLAYBOOKS).as_posix()
        yield from [part] if part in LOCKING else expanded(part)


# The only play of host_maintenance.yml releases its lock, even if it fails.
@pytest.mark.parametrize("playbook", ["site", "rolling_update", "rolling_restart", "rollback", "move_store"])
def test_the_lock_is_released_last(playbook):
    steps = list(expanded(f"{playbook}.yml"))
    assert steps.count("parts/lock.yml") == 1
    assert steps.index("parts/unlock.yml") == len(steps) - 1
    assert "{{ ws_workers_group }}" in steps[steps.index("parts/lock.yml") :]


def test_a_playbook_releases_only_a_lock_that_it_takes():
    (taken,), (given,) = plays("parts/lock.yml"), plays("parts/unlock.yml")
    assert taken["tags"] == given["tags"]


def all_plays(path: str) -> list[dict[str, Any]]:
    """The plays of a playbook, with those of the playbooks that it imports."""
    found = []
    for play in plays(path):
        imported = play.get("ansible.builtin.import_playbook")
        found += all_plays(str((PLAYBOOKS / path).parent.relative_to(PLAYBOOKS) / imported)) if imported else [play]
    return found


def test_every_change_of_the_fleet_comes_after_the_lock_also_with_tags():
    found = all_plays("site.yml")
    (lock,) = (index for index, play in enumerate(found) if play["name"] == "Take the fleet's lock")
    assert {play["tags"] for play in found[:lock]} == {"always"}
    tags = {
        tag for play in found[lock + 1 :] for tag in ([play["tags"]] if isinstance(play["tags"], str) else play["tags"])
    }
    assert set(found[lock]["tags"]) == tags
