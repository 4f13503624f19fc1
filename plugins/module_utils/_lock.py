# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The fleet's lock: a file on one host that names the run that changes the fleet."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

_TEXTS = ("run", "owner", "reason")
_TIMES = ("since", "seen")


class LockError(Exception):
    """The lock cannot be used; the text is for the operator."""


class HeldError(Exception):
    """Another run has the lock.

    `holder` is that run's record, with the age and silence in seconds.
    """

    def __init__(self, holder: dict[str, Any]) -> None:
        super().__init__()
        self.holder = holder


class LostError(Exception):
    """This run has lost the lock, and no other run has it now."""


class Lock:
    """The lock file. `now` returns this host's Unix time: clocks of control machines may differ."""

    def __init__(self, path: str, now: Callable[[], float] = time.time) -> None:
        self._path = pathlib.Path(path)
        self._now = now

    def acquire(self, run: str, owner: str, reason: str, instead_of: str | None = None, dry: bool = False) -> bool:
        """Take or renew the lock. Return whether this run did not have it before.

        `instead_of`: a run from which the lock may be taken. `dry`: change nothing. Raises
        HeldError and LockError.
        """
        with self._exclusive(dry):
            record = self._read()
            mine = record is not None and record["run"] == run
            if record is not None and not mine and record["run"] != instead_of:
                raise HeldError(self._as_holder(record))
            if not dry:
                now = self._now()
                since = record["since"] if record is not None and mine else now
                self._write({"run": run, "owner": owner, "reason": reason, "since": since, "seen": now})
            return not mine

    def keep(self, run: str) -> None:
        """Renew the lock. Raises HeldError, LostError and LockError."""
        with self._exclusive():
            record = self._read()
            if record is None:
                raise LostError
            if record["run"] != run:
                raise HeldError(self._as_holder(record))
            self._write(record | {"seen": self._now()})

    def release(self, run: str, dry: bool = False) -> bool:
        """Release the lock. Return whether this run had it. Raises LockError."""
        with self._exclusive(dry):
            record = self._read()
            if record is None or record["run"] != run:
                return False
            if not dry:
                self._path.unlink()
            return True

    def _read(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self._path.read_bytes())
            texts = {key: str(record[key]) for key in _TEXTS}
            times = {key: float(record[key]) for key in _TIMES}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            times = {}
        if not times or not all(map(math.isfinite, times.values())):
            raise LockError(
                f"{self._path} is not a lock written by this release: remove it if no run is changing the fleet."
            )
        return texts | times

    def _as_holder(self, record: dict[str, Any]) -> dict[str, Any]:
        # The clock may have been set back: an age is never negative.
        ages = {"age_s": record["since"], "silent_s": record["seen"]}
        return {key: record[key] for key in _TEXTS} | {key: max(self._now() - at, 0.0) for key, at in ages.items()}

    def _write(self, record: dict[str, Any]) -> None:
        # Only one run at a time gets here, so the remains of a killed run can be overwritten.
        draft = self._path.with_name(f".{self._path.name}.new")
        draft.write_text(json.dumps(record), encoding="utf-8")
        draft.chmod(0o644)
        draft.replace(self._path)

    @contextlib.contextmanager
    def _exclusive(self, dry: bool = False) -> Iterator[None]:
        """Exclude other runs, so that only one of two concurrent runs finds the lock free."""
        directory = self._path.parent
        try:
            if dry and not directory.is_dir():
                yield
                return
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            remedy = " Run this task with become." if isinstance(error, PermissionError) else ""
            raise LockError(f"The lock {self._path} cannot be used: {error.strerror}.{remedy}") from error
