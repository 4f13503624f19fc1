# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The lock of a fleet: a file on one of its hosts that says which run is changing it."""

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
    """Somebody else has it: `holder` is what they wrote down, with the seconds since they took it and since the last sign of them."""

    def __init__(self, holder: dict[str, Any]) -> None:
        super().__init__()
        self.holder = holder


class LostError(Exception):
    """It is not this run's any more, and nobody's."""


class Lock:
    """`now`: Unix time in seconds, by this host's clock alone: those of two control machines may differ."""

    def __init__(self, path: str, now: Callable[[], float] = time.time) -> None:
        self._path = pathlib.Path(path)
        self._now = now

    def acquire(self, run: str, owner: str, reason: str, instead_of: str | None = None, dry: bool = False) -> bool:
        """Take it, or give a sign of life; returns whether it was not this run's before. Raises HeldError, LockError.

        `instead_of`: a run that may be robbed of it. `dry`: change nothing.
        """
        with self._alone(dry):
            record = self._read()
            mine = record is not None and record["run"] == run
            if record is not None and not mine and record["run"] != instead_of:
                raise HeldError(self._told(record))
            if not dry:
                now = self._now()
                since = record["since"] if record is not None and mine else now
                self._write({"run": run, "owner": owner, "reason": reason, "since": since, "seen": now})
            return not mine

    def keep(self, run: str) -> None:
        """Give a sign of life. Raises HeldError, LostError, LockError."""
        with self._alone():
            record = self._read()
            if record is None:
                raise LostError
            if record["run"] != run:
                raise HeldError(self._told(record))
            self._write(record | {"seen": self._now()})

    def release(self, run: str, dry: bool = False) -> bool:
        """Whether it was this run's. Raises LockError."""
        with self._alone(dry):
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
                f"{self._path} is no lock that this release wrote: remove it if nobody is changing the fleet."
            )
        return texts | times

    def _told(self, record: dict[str, Any]) -> dict[str, Any]:
        # A clock that was set back makes nobody younger than now.
        ages = {"age_s": record["since"], "silent_s": record["seen"]}
        return {key: record[key] for key in _TEXTS} | {key: max(self._now() - at, 0.0) for key, at in ages.items()}

    def _write(self, record: dict[str, Any]) -> None:
        # Of two runs only one is here at a time, so what a killed one left is overwritten.
        draft = self._path.with_name(f".{self._path.name}.new")
        draft.write_text(json.dumps(record), encoding="utf-8")
        draft.chmod(0o644)
        draft.replace(self._path)

    @contextlib.contextmanager
    def _alone(self, dry: bool = False) -> Iterator[None]:
        """Of two runs that look at once, only one finds it free."""
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
            mend = " Run this task with become." if isinstance(error, PermissionError) else ""
            raise LockError(f"The lock {self._path} cannot be used: {error.strerror}.{mend}") from error
