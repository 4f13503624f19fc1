# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The readiness gate: a worker passes if the right process is ready and stays ready."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ansible_collections.selfhost.websocket.plugins.module_utils import _readyz
from ansible_collections.selfhost.websocket.plugins.module_utils._control import ControlError, Status
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import SystemdError, Unit
from ansible_collections.selfhost.websocket.plugins.module_utils._waiting import Clock, Wait
from ansible_collections.selfhost.websocket.plugins.module_utils._worker import Worker, WorkerError

# One or two restarts may be a coincidence.
_CRASHES = 3


@dataclass(frozen=True)
class Expected:
    """The expected worker; None allows anything.

    `previous_*` describe the process that must have been replaced, and `pid` the one that must
    still run.
    """

    previous_pid: int | None = None
    previous_started_at: float | None = None
    version: str | None = None
    generation: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Seen:
    """One observation.

    Without a control socket, PID and start come from systemd, and the version from the release.
    """

    unit: Unit
    answer: _readyz.Answer
    pid: int | None
    started_at: float | None
    version: str | None


class Gate:
    """One use of the gate. `result()` describes the progress, also after a WorkerError."""

    def __init__(self, worker: Worker, url: str, expected: Expected, clock: Clock = time) -> None:
        self._worker = worker
        self._url = url
        self._expected = expected
        self._clock = clock
        self._start = clock.monotonic()
        self._seen: Seen | None = None
        self._attempts = 0
        self._good = 0
        self._held_s = 0.0
        self._pids: set[int] = set()
        self._restarts_before: int | None = None
        self._end = "ended, and its log may say why"

    def look(self) -> Seen:
        """Raises WorkerError if systemd cannot be asked."""
        answer = _readyz.ask(self._url)
        status = self._status()
        try:
            unit = self._worker.unit()
        except SystemdError as error:
            raise self._error(f"cannot be watched: {error}") from None
        self._seen = Seen(
            unit=unit,
            answer=answer,
            pid=status.pid if status else unit.pid,
            started_at=status.started_at if status else unit.started_at,
            version=status.version if status else self._worker.instance.version,
        )
        self._attempts += 1
        self._end = unit.end or self._end  # systemd forgets the end when the next process starts
        self._count_starts(self._seen)
        return self._seen

    def open(self, successes: int, timeout_s: float) -> None:
        """Wait until the worker was ready `successes` times in a row.

        Raises WorkerError as soon as that has become impossible.
        """
        wait = Wait(timeout_s, self._clock)
        pid = None
        while True:
            seen = self.look()
            self._give_up_if_hopeless(seen)
            if not seen.answer.ready or self.is_old(seen):
                self._good = 0
            else:
                self._good = self._good + 1 if seen.pid == pid else 1
                pid = seen.pid
            if self._good >= successes:
                return
            if wait.over:
                raise self._error(f"was not ready within {timeout_s:g} s: {self._what_is_missing(seen, successes)}")
            wait.pause()

    def hold(self, hold_s: float) -> None:
        """Watch the worker. Raises WorkerError as soon as it is not ready or was replaced."""
        held = self._seen.pid if self._seen else None
        wait = Wait(hold_s, self._clock)
        while not wait.over:
            wait.pause()
            seen = self.look()
            self._held_s = wait.seconds
            after = f"was ready, and {wait.seconds:.1f} s later"
            if seen.pid is None:
                raise self._error(f"{after} its process {held} had ended: it {self._end}")
            if seen.pid != held:
                raise self._error(
                    f"{after} its process {held} had ended, replaced by process {seen.pid}: it {self._end}"
                )
            if not seen.answer.ready:
                raise self._error(f"{after} it was not: {self._url} said {seen.answer}")

    def is_old(self, seen: Seen) -> bool:
        """Whether the old process still runs, or no process at all."""
        pid, started_at = self._expected.previous_pid, self._expected.previous_started_at
        if seen.pid is None:
            return True
        if pid is None and started_at is None:
            return False
        if pid is not None and seen.pid != pid:
            return False
        return started_at is None or seen.started_at is None or seen.started_at <= started_at

    def result(self) -> dict[str, Any]:
        seen = self._seen
        return {
            "instance": self._worker.name,
            "url": self._url,
            "ready": seen is not None and seen.answer.ready and not self.is_old(seen),
            "attempts": self._attempts,
            "successes_in_a_row": self._good,
            "last_answer": str(seen.answer) if seen else None,
            "pid": seen.pid if seen else None,
            "started_at": seen.started_at if seen else None,
            "version": seen.version if seen else None,
            "generation": self._worker.instance.generation,
            "restarts": self._restarts,
            "held_s": round(self._held_s, 2),
            "seconds": round(self._clock.monotonic() - self._start, 2),
        }

    # Workers that cannot become ready.

    def _give_up_if_hopeless(self, seen: Seen) -> None:
        unit, expected, instance = seen.unit, self._expected, self._worker.instance
        if not unit.exists:
            raise self._error(f"cannot start: systemd finds no unit {instance.unit} that it can load")
        if expected.generation is not None and instance.generation != expected.generation:
            raise self._error(f"has the generation {instance.generation}, and {expected.generation} was expected")
        if expected.pid is not None and seen.pid != expected.pid:
            place = "" if seen.pid is None else f", replaced by process {seen.pid}"
            raise self._error(f"was ready, and then its process {expected.pid} ended{place}: it {self._end}")
        if unit.active == "failed" and not unit.job:
            raise self._error(f"has failed and is not restarted: it {self._end}")
        if unit.active == "inactive" and not unit.job:
            raise self._error(f"is stopped, and no start is queued: systemctl start {instance.unit}")
        if self._restarts >= _CRASHES:
            raise self._error(
                f"crashes repeatedly, {self._restarts} times in {self._clock.monotonic() - self._start:.0f} s: "
                f"it {self._end}"
            )
        if seen.answer.ready and not self.is_old(seen) and expected.version not in (None, seen.version):
            raise self._error(f"is ready with the version {seen.version}, and {expected.version} was expected")

    def _count_starts(self, seen: Seen) -> None:
        # A start of the unit by an operator resets systemd's count to 0.
        before = seen.unit.restarts if self._restarts_before is None else self._restarts_before
        self._restarts_before = min(before, seen.unit.restarts)
        if seen.pid is not None and seen.pid != self._expected.previous_pid:
            self._pids.add(seen.pid)

    @property
    def _restarts(self) -> int:
        """Restarts since the first look, counted by systemd or seen as new processes."""
        counted = self._seen.unit.restarts - (self._restarts_before or 0) if self._seen else 0
        return max(counted, len(self._pids) - 1, 0)

    # Messages.

    def _what_is_missing(self, seen: Seen, successes: int) -> str:
        if seen.answer.ready and seen.pid is None:
            return f"{self._url} is answered, but not by {self._worker.instance.unit}, which has no process"
        if seen.answer.ready and self.is_old(seen):
            return f"process {seen.pid} is still the old one, which should have been replaced"
        if seen.answer.ready:
            return f"it was ready {self._good} times in a row, and {successes} are needed"
        state = f"its unit is {seen.unit.active} ({seen.unit.sub})"
        return f"{state}, and {self._url} said: {seen.answer}"

    def _status(self) -> Status | None:
        try:
            return self._worker.control.status()
        except ControlError:
            return None

    def _error(self, why: str) -> WorkerError:
        return WorkerError(f"Worker {self._worker.name} {why}.")
