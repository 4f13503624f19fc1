# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The marks of an open rollout on a host's disk, and the generations that the host keeps.

Each function can be called again after an interruption at any point. Each returns its changes, or
with `dry` the changes that it would make. A bare host in check mode has no home, and no changes.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance
from ansible_collections.selfhost.websocket.plugins.module_utils._rollout import Contents, release_of, superfluous

_BEFORE = "before"
_UNFINISHED = f"{_BEFORE}/{_instance.UNFINISHED}"
_RESTART_ASKED = "restart-asked"


def open_change(dry: bool) -> bool:
    """Record the generation of each instance, unless an open rollout has already done so."""
    home = _instance.HOME
    if (home / _UNFINISHED).exists():
        return False
    if not dry:
        new = home / "before.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o755)
        for name in _instance.names():
            _copy_link(home / "instances" / name, new / name)
        (new / _instance.UNFINISHED).touch()
        shutil.rmtree(home / _BEFORE, ignore_errors=True)
        new.rename(home / _BEFORE)
    return True


def open_restart(dry: bool) -> bool:
    """Record a restart of all workers, unless an open restart has already done so."""
    mark = _instance.HOME / _RESTART_ASKED
    if mark.exists():
        return False
    if not dry:
        mark.touch(mode=0o644)
    return True


def restart_asked_at() -> int:
    """The time when the open restart was requested. Without an open restart, now."""
    try:
        return int((_instance.HOME / _RESTART_ASKED).stat().st_mtime)
    except FileNotFoundError:
        return int(time.time())


def close_change(dry: bool) -> bool:
    return _remove_mark(_UNFINISHED, dry)


def close_restart(dry: bool) -> bool:
    return _remove_mark(_RESTART_ASKED, dry)


def prune(keep: int, dry: bool) -> list[str]:
    """Delete what no kept generation needs. Return the paths below the home."""
    paths = superfluous(_contents(), keep)
    for path in [] if dry else paths:
        _delete(_instance.HOME / path)
    return paths


def _contents() -> Contents:
    home = _instance.HOME
    generations = {path.name: (path.lstat().st_mtime, _release(path)) for path in home.glob("generations/*")}
    releases = {path.name: _target(path / "environment") for path in home.glob("releases/*")}
    links = [_target(path) for folder in ("instances", _BEFORE) for path in home.glob(f"{folder}/*")]
    return Contents(
        generations=generations,
        releases=releases,
        environments=[path.name for path in home.glob("environments/*")],
        used={link for link in links if link},
    )


def _release(generation: Path) -> str:
    """The release that the link names. A generation of an interrupted run may have no link yet."""
    return _target(generation / "release") or release_of(generation.name)


def _target(link: Path) -> str | None:
    return link.readlink().name if link.is_symlink() else None


def _copy_link(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())
        at = source.lstat()
        os.utime(target, ns=(at.st_atime_ns, at.st_mtime_ns), follow_symlinks=False)


def _remove_mark(name: str, dry: bool) -> bool:
    mark = _instance.HOME / name
    if not mark.exists():
        return False
    if not dry:
        mark.unlink()
    return True


def _delete(path: Path) -> None:
    """Delete the mark of a complete build first: half of a release must not look complete.

    Renaming the directory first would do the same, but fails in a lower layer of an overlay.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        (path / ".complete").unlink(missing_ok=True)
        shutil.rmtree(path)
