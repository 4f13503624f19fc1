# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The lock of a fleet: a file on one of its hosts that says which run is changing it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
import time


class LockError(Exception):
    """The lock cannot be used; the text is for the operator."""


class Held(Exception):
    """Somebody else has it: `holder` is what they wrote down."""

    def __init__(self, holder: dict) -> None:
        super().__init__()
        self.holder = holder


class Lock:
    """`now`: Unix time in seconds, by this host's clock alone, so that those of two control machines may differ."""

    def __init__(self, path: str, now=time.time) -> None:
        self._path = pathlib.Path(path)
        self._now = now

    def holder(self) -> dict | None:
        """What the holder wrote down, and `silent_s`: for how many seconds there was no sign of it."""
        try:
            text = self._path.read_text(encoding="utf-8")
            age = self._now() - self._path.stat().st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LockError(f"{self._path} cannot be read: {error.strerror}. Run this task with become.") from error
        try:
            holder = json.loads(text)
            known = {key: str(holder[key]) for key in ("run", "owner", "reason")}
            return known | {"since": float(holder["since"]), "silent_s": max(age, 0.0)}
        except (ValueError, TypeError, KeyError) as error:
            raise LockError(
                f"{self._path} is not a lock that this release wrote: remove it if no run is under way."
            ) from error

    def acquire(self, run: str, owner: str, reason: str, instead_of: str | None, dry: bool = False) -> bool:
        """Take it, or give a sign of life; returns whether it was not this run's before. Raises Held, LockError.

        `instead_of`: a run that is known to be over. `dry`: change nothing.
        """
        with self._alone(dry):
            holder = self.holder()
            if holder is not None and holder["run"] not in (run, instead_of):
                raise Held(holder)
            mine = holder is not None and holder["run"] == run
            if not dry:
                since = holder["since"] if mine else self._now()
                self._write({"run": run, "owner": owner, "reason": reason, "since": since})
            return not mine

    def release(self, run: str, dry: bool = False) -> bool:
        """Whether it was this run's. Raises LockError."""
        with self._alone(dry):
            holder = self.holder()
            if holder is None or holder["run"] != run:
                return False
            if not dry:
                self._path.unlink()
            return True

    def _write(self, record: dict) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        with open(descriptor, "w", encoding="utf-8") as draft:
            json.dump(record, draft)
        os.chmod(name, 0o644)
        os.replace(name, self._path)

    @contextlib.contextmanager
    def _alone(self, dry: bool):
        """Of two runs that look at once, only one finds it free."""
        if dry and not self._path.parent.is_dir():
            yield
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise LockError(
                f"{self._path.parent} cannot be used: {error.strerror}. Run this task with become."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise LockError(f"{self._path} cannot be written: {error.strerror}. Run this task with become.") from error
        finally:
            os.close(descriptor)
