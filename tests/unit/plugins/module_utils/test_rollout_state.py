# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A rollout's marks on the disk, including those of an older collection."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance, _rollout_state

OLD, NEW = "1.0+abc-12345678", "2.0+def-87654321"


@pytest.fixture
def home(host):
    host.home.joinpath("before").mkdir()
    return host.home


def links(directory):
    return {path.name: str(path.readlink()) for path in directory.iterdir() if path.is_symlink()}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def everything(home):
    return sorted((str(path), path.lstat().st_mtime_ns) for path in home.rglob("*"))


def test_an_update_records_what_each_instance_has(host, home):
    host.link("80", OLD)
    host.link("81", NEW)
    os.utime(home / "instances/80", (100, 100), follow_symlinks=False)
    assert _rollout_state.open_change(dry=False)
    assert links(home / "before") == links(home / "instances")
    assert (home / "before/80").lstat().st_mtime == 100
    assert (home / "before/.unfinished").exists()
    assert _instance.before() == {"80": OLD, "81": NEW}


def test_an_open_update_is_not_recorded_again(host, home):
    host.link("80", OLD)
    _rollout_state.open_change(dry=False)
    host.link("80", NEW)
    assert not _rollout_state.open_change(dry=False)
    assert _instance.before() == {"80": OLD}
    assert _instance.Instance("80").generation_before == OLD
    assert _rollout_state.close_change(dry=False)
    assert _instance.Instance("80").generation_before is None
    assert _instance.before() == {"80": OLD}, "a rollback needs it"
    assert not _rollout_state.close_change(dry=False)
    assert _rollout_state.open_change(dry=False)
    assert _instance.before() == {"80": NEW}


def test_a_record_of_an_older_collection_is_continued(host, home):
    """The record was written by `cp -a instances before.new`, complete or interrupted."""
    host.link("80", OLD)
    before = "rm -rf before.new && cp -a instances before.new && touch before.new/.unfinished"
    subprocess.run(["sh", "-c", before], cwd=home, check=True)
    host.link("81", OLD)
    assert _rollout_state.open_change(dry=False), "before.new is no record yet"
    assert _instance.before() == {"80": OLD, "81": OLD}
    assert not (home / "before.new").exists()
    subprocess.run(["sh", "-c", f"{before} && rm -rf before && mv before.new before"], cwd=home, check=True)
    host.link("80", NEW)
    assert not _rollout_state.open_change(dry=False)
    assert _instance.Instance("80").generation_before == OLD


def test_a_restart(home):
    now = int(time.time())
    assert _rollout_state.restart_asked_at() >= now
    assert _rollout_state.open_restart(dry=False)
    os.utime(home / "restart-asked", (now - 50, now - 50))
    assert not _rollout_state.open_restart(dry=False)
    assert _rollout_state.restart_asked_at() == now - 50
    assert _rollout_state.close_restart(dry=False)
    assert not _rollout_state.close_restart(dry=False)


def release(home, name, environment=None):
    directory = home / "releases" / name
    directory.mkdir(parents=True)
    (directory / ".complete").touch()
    (directory / "file").touch()
    if environment:
        (home / "environments" / environment).mkdir(parents=True, exist_ok=True)
        (home / "environments" / environment / "python").touch()
        (directory / "environment").symlink_to(f"../../environments/{environment}")


def generation(home, name, at):
    directory = home / "generations" / name
    directory.mkdir(parents=True)
    (directory / "release").symlink_to(f"../../releases/{name.rpartition('-')[0]}")
    os.utime(directory, (at, at))


def test_files_that_no_kept_generation_needs_are_deleted(home):
    # Of three releases, the oldest was built by an older collection, and contains its environment.
    release(home, "1.0")
    release(home, "2.0", "a")
    release(home, "3.0", "b")
    release(home, "4.0.build")
    (home / "environments/c.build").mkdir()
    for number in (1, 2, 3):
        generation(home, f"{number}.0-0000000{number}", number)
    (home / "instances/80").symlink_to("../generations/3.0-00000003")
    (home / "before/80").symlink_to("../generations/1.0-00000001")
    expected = [
        "generations/2.0-00000002",
        "releases/2.0",
        "releases/4.0.build",
        "environments/a",
        "environments/c.build",
    ]
    before = everything(home)
    assert _rollout_state.prune(1, dry=True) == expected
    assert everything(home) == before
    assert _rollout_state.prune(1, dry=False) == expected
    assert names(home / "releases") == ["1.0", "3.0"]
    assert names(home / "environments") == ["b"]
    assert (home / "environments/b/python").exists()
    assert names(home / "generations") == ["1.0-00000001", "3.0-00000003"]
    assert _rollout_state.prune(1, dry=False) == []


def test_half_of_a_release_does_not_look_complete(home, monkeypatch):
    """A run that is killed while it deletes leaves no release with the mark of completeness."""
    release(home, "1.0")

    def killed(_path, *_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_rollout_state.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            _rollout_state.prune(1, dry=False)
    assert not (home / "releases/1.0/.complete").exists()
    _rollout_state.prune(1, dry=False)
    assert names(home / "releases") == []


def test_a_generation_without_a_link_has_the_release_of_its_name(home):
    release(home, "1.0")
    (home / "generations/1.0-00000001").mkdir(parents=True)
    assert _rollout_state.prune(1, dry=False) == []


def test_a_bare_host_has_nothing(host, monkeypatch):
    monkeypatch.setattr(_instance, "HOME", host.home / "absent")
    assert _instance.before() == {}
    assert _rollout_state.prune(3, dry=True) == []
    assert not _rollout_state.close_change(dry=True)
    assert not _rollout_state.close_restart(dry=True)
    assert _rollout_state.open_change(dry=True)
    assert _rollout_state.open_restart(dry=True)
    assert not (host.home / "absent").exists()
