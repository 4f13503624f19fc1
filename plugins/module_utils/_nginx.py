# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Puts a changed configuration into force in a running nginx, or leaves everything as it was.

One change at a time, under a lock. The new text is written beside the old one, tested by nginx, and renamed into place. nginx is
told, and then watched until it runs on the new text. Whatever fails, the old text comes back. nginx is never restarted.

The edge watcher shares this file, outside of Ansible: it imports the standard library alone.
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
# nginx tries for 2.5 s to have a port that is taken, and gives up then.
_RELOAD_S = 15


class NotAppliedError(Exception):
    """nginx runs on with what it had, and so does its file; the text says why."""


@dataclass(frozen=True)
class Applied:
    """The text before and after, and whether nginx was told: not when all was in force already, or when it does not run."""

    before: str
    after: str
    reloaded: bool


@dataclass(frozen=True)
class _Process:
    """`started`: in clock ticks since the machine's boot."""

    started: int
    shutting_down: bool


class Nginx:
    """The nginx of one configuration file. Files that it includes are none of ours, and stay as they are.

    Beside its pid file, where a reboot takes them away, are a lock and a note of when nginx was last told of changes.
    """

    def __init__(self, configuration: Path) -> None:
        self._path = configuration.resolve()
        self._staged = self._path.with_name(f".{self._path.name}.staged")

    def read(self) -> str:
        """Raises OSError."""
        return self._path.read_text(encoding="utf-8")

    def untold(self) -> bool:
        """Whether a running nginx may not know of the file as it is: somebody wrote it, and was cut short before the reload."""
        if self._master() is None:
            return False
        told = [path.stat().st_mtime_ns for path in (self._pid_file(), self._told()) if path.exists()]
        return self._path.stat().st_mtime_ns > max(told, default=0)

    def lingering(self) -> int:
        """How many processes of earlier configurations serve their last clients."""
        master = self._master()
        return sum(process.shutting_down for process in _workers(master)) if master else 0

    def apply(self, change: Callable[[str], str]) -> Applied:
        """Put `change` of the text into force; `change` may raise, and nothing happens then. Raises NotAppliedError, OSError."""
        with self._locked():
            before, status = self.read(), self._path.stat()
            after = change(before)
            if after == before and not self.untold():
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
            self._told().touch()
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
        """A file that a killed run left here is overwritten."""
        with self._staged.open("w", encoding="utf-8") as file:
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), like.st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _test(self) -> None:
        # /usr/sbin is not in everybody's PATH.
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
        # As old as it was: this is the text that nginx runs on.
        os.utime(self._staged, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._swap()
        # Should nginx be slow rather than unwilling, this is the last it hears.
        if (master := self._master()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(master, signal.SIGHUP)

    # The processes.

    def _reload(self) -> bool:
        """Whether there was anybody to tell: an nginx that does not run starts with the file as it is."""
        master = self._master()
        if master is None:
            return False
        told_at = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        try:
            os.kill(master, signal.SIGHUP)
        except ProcessLookupError:
            return False
        # A refused reload is silent: nginx then keeps its processes. One that took place replaces all that serve.
        deadline = time.monotonic() + _RELOAD_S
        while time.monotonic() < deadline:
            if not _is_master(master):
                return False
            serving = [process for process in _workers(master) if not process.shutting_down]
            if serving and all(process.started >= told_at for process in serving):
                return True
            time.sleep(0.05)
        raise NotAppliedError(f"nginx did not take the new configuration within {_RELOAD_S} s; its error log says why")

    def _pid_file(self) -> Path:
        match = re.search(r"^\s*pid\s+([^\s;]+)\s*;", self.read(), re.MULTILINE)
        return Path(match[1] if match else "/run/nginx.pid")

    def _told(self) -> Path:
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
        with contextlib.suppress(OSError):  # it is gone meanwhile
            # The program's name, in parentheses, may hold anything.
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
