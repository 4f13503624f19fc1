# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Applies a changed configuration to a running nginx, or leaves everything unchanged.

A lock allows one change at a time. The new text is written beside the old one, validated by nginx,
and renamed into place. nginx reloads, and is watched until it runs with the new text. If anything
fails, the old text is restored. nginx is never restarted.

The edge watcher shares this file outside of Ansible, so this file imports only the standard
library.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LOCK_S = 30
_TEST_S = 15
# nginx tries for 2.5 s to bind a port that is in use.
_RELOAD_S = 15


class NotAppliedError(Exception):
    """nginx and its file keep the old configuration. The text names the cause."""


@dataclass(frozen=True)
class Applied:
    """The text before and after, and whether nginx was reloaded.

    nginx is not reloaded if it does not run, or if the text was already in force.
    """

    before: str
    after: str
    reloaded: bool


@dataclass(frozen=True)
class _Process:
    """One worker process of nginx. `started` counts clock ticks since boot."""

    started: int
    shutting_down: bool


class Nginx:
    """The nginx of one configuration file. Files that it includes are never changed.

    A lock and a mark of the last reload are in the directory of the PID file. A reboot removes both.
    """

    def __init__(self, configuration: Path) -> None:
        self._path = configuration.resolve()
        self._staged = self._path.with_name(f".{self._path.name}.staged")

    def read(self) -> str:
        """Raises OSError."""
        return self._path.read_text(encoding="utf-8")

    def needs_reload(self) -> bool:
        """Whether the file is newer than nginx's last reload, as after an interrupted run."""
        if self._master() is None:
            return False
        reloads = [path.stat().st_mtime_ns for path in (self._pid_file(), self._reload_mark()) if path.exists()]
        return self._path.stat().st_mtime_ns > max(reloads, default=0)

    def lingering(self) -> int:
        """Count processes of earlier configurations, which serve their last clients."""
        master = self._master()
        return sum(process.shutting_down for process in _workers(master)) if master else 0

    def apply(self, change: Callable[[str], str]) -> Applied:
        """Apply `change` to the text and put the result into force.

        If `change` raises, nothing happens. Raises NotAppliedError and OSError.
        """
        with self._locked():
            before, status = self.read(), self._path.stat()
            after = change(before)
            if after == before and not self.needs_reload():
                return Applied(before, after, reloaded=False)
            self._stage(after, status)
            try:
                self._test()
            except NotAppliedError:
                self._staged.unlink()
                raise
            self._swap()
            try:
                reloaded = self._reload()
            except NotAppliedError:
                self._put_back(before, status)
                raise
            self._reload_mark().touch()
            return Applied(before, after, reloaded)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._pid_file().with_name("ws-edge.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + _LOCK_S
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise NotAppliedError(f"another program has held {lock} for {_LOCK_S} s") from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    # The file.

    def _stage(self, text: str, like: os.stat_result) -> None:
        """Write the new text beside the file. Overwrites the remains of a killed run."""
        with self._staged.open("w", encoding="utf-8") as file:
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), like.st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _test(self) -> None:
        # /usr/sbin is not in every user's PATH.
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if program is None:
            raise NotAppliedError("there is no program nginx to test the configuration with")
        command = [program, "-e", "stderr", "-t", "-q", "-c", str(self._staged)]
        try:
            subprocess.run(
                command, check=True, timeout=_TEST_S, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
        except subprocess.CalledProcessError as error:
            raise NotAppliedError(f"nginx does not accept the configuration: {error.stderr.strip()}") from error
        except subprocess.TimeoutExpired as error:
            raise NotAppliedError(f"nginx has not tested the configuration within {_TEST_S} s") from error

    def _swap(self) -> None:
        self._staged.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _put_back(self, text: str, status: os.stat_result) -> None:
        self._stage(text, status)
        # The restored file keeps its old time, because nginx runs with this text.
        os.utime(self._staged, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._swap()
        # If nginx was only slow, this reload makes it use the old text again.
        if (master := self._master()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(master, signal.SIGHUP)

    # The processes.

    def _reload(self) -> bool:
        """Reload nginx.

        Return whether nginx runs: otherwise it reads the file at its next start.
        """
        master = self._master()
        if master is None:
            return False
        told_at = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        try:
            os.kill(master, signal.SIGHUP)
        except ProcessLookupError:
            return False
        # nginx reports no refused reload, but keeps its processes. A successful reload replaces
        # them.
        deadline = time.monotonic() + _RELOAD_S
        while time.monotonic() < deadline:
            if not _is_master(master):
                return False
            serving = [process for process in _workers(master) if not process.shutting_down]
            if serving and all(process.started >= told_at for process in serving):
                return True
            time.sleep(0.05)
        raise NotAppliedError(
            f"nginx did not load the new configuration within {_RELOAD_S} s; its error log names the cause"
        )

    def _pid_file(self) -> Path:
        match = re.search(r"^\s*pid\s+([^\s;]+)\s*;", self.read(), re.MULTILINE)
        return Path(match[1] if match else "/run/nginx.pid")

    def _reload_mark(self) -> Path:
        return self._pid_file().with_name("ws-edge-reloaded")

    def _master(self) -> int | None:
        try:
            pid = int(self._pid_file().read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None
        return pid if _is_master(pid) else None


def _is_master(pid: int) -> bool:
    return _title(pid).startswith("nginx: master process")


def _workers(master: int) -> list[_Process]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            # The program's name, in parentheses, may contain any character.
            fields = (directory / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parent, started = int(fields[1]), int(fields[19])
            if parent == master and (title := _title(int(directory.name))).startswith("nginx: worker process"):
                found.append(_Process(started, title.endswith("is shutting down")))
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").strip("\0 ")
    except OSError:
        return ""
