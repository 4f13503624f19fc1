# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Drains a worker in the name of a caller, or ends that caller's drain."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, cast

from ansible_collections.selfhost.websocket.plugins.module_utils._control import (
    ControlError,
    NotServedError,
    Status,
    UnansweredError,
)
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import SystemdError
from ansible_collections.selfhost.websocket.plugins.module_utils._waiting import Clock, Wait
from ansible_collections.selfhost.websocket.plugins.module_utils._worker import Worker, WorkerError

# The time between the end of a process and systemd's notice.
_NOTICED_S = 5.0
# The time of a drain without a window: the clients' grace, the closing handshakes, and a reserve
# for a slow machine.
_FORCE_S = 15.0
# The time between two progress reports of a drain.
_SLICE_S = 5.0


class Draining:
    """One drain or undrain: `look()`, and then one other method.

    `result()` describes the progress, also after a WorkerError. A drain can run in slices, so that
    the caller can report progress in between: `so_far` is {} for the first slice. A slice that ends
    before the drain has a new `so_far`, and the next slice continues with `go_on()`.
    """

    def __init__(
        self,
        worker: Worker,
        by: str,
        timeout_s: float,
        clock: Clock = time,
        so_far: dict[str, Any] | None = None,
    ) -> None:
        self._worker = worker
        self._by = by
        self._clock = clock
        self._timeout_s = timeout_s
        self._last_slice = so_far or {}
        self._wait = Wait(timeout_s, clock, self._last_slice.get("began"))
        self._slice = self._wait if so_far is None else Wait(_SLICE_S, clock)
        self._before: Status | None = None
        self._now: Status | None = None
        self._looked = False
        self._late = 0
        self._timeline: list[dict[str, Any]] = []
        self.so_far: dict[str, Any] | None = None
        self.changed = False
        self.message = ""

    def look(self) -> None:
        self._before = self._now = self._persist(self._worker.control.status, self._wait)
        self._looked = True

    # Drain and undrain.

    def drain(self, window_s: float | None, force: bool) -> None:
        """Drain the worker.

        With `force`, the worker disconnects all remaining clients at the deadline.
        """
        if not self._is_drain_wanted():
            return
        control = self._worker.control
        self.changed = True
        self._see(self._persist(lambda: control.drain(self._by, window_s), self._wait))
        self._await_end(force)

    def go_on(self, force: bool) -> None:
        last = self._last_slice
        self._before, self._now, self._timeline = Status(**last["before"]), Status(**last["now"]), last["timeline"]
        self._looked = self.changed = True
        self._look_again(self._wait)  # the last look may be long ago
        self._await_end(force)

    def undrain(self) -> None:
        if not self._is_undrain_wanted():
            return
        self._see(self._persist(lambda: self._worker.control.undrain(self._by), self._wait))
        self.changed = True
        self.message = self._still_drained() or (
            "lets clients in again" if self._now else "ended before it could be undrained"
        )

    # Check mode.

    def foresee_drain(self) -> None:
        if self._is_drain_wanted():
            self.changed = True
            self.message = f"would close {self._was.connections} connections"
            by = [*self._was.drained_by, *([] if self._by in self._was.drained_by else [self._by])]
            self._now = dataclasses.replace(self._was, state="drained", drained_by=by, connections=0)

    def foresee_undrain(self) -> None:
        if self._is_undrain_wanted():
            self.changed = True
            others = [name for name in self._was.drained_by if name != self._by]
            self.message = f"would stay drained by {', '.join(others)}" if others else "would let clients in again"
            state = self._was.state if others else "ready"
            self._now = dataclasses.replace(self._was, state=state, drained_by=others)

    # The result.

    def result(self) -> dict[str, Any]:
        before, after = _connections(self._before), _connections(self._now)
        forced = max(self._late - after, 0)
        return {
            "instance": self._worker.name,
            "state": self._state(self._now),
            "drained_by": self._now.drained_by if self._now else [],
            "connections_before": before,
            "connections_after": after,
            "closed": max(before - after - forced, 0),
            "forced": forced,
            "seconds": round(self._wait.seconds, 2),
            "timeline": self._timeline,
        }

    def difference(self) -> dict[str, Any]:
        return {"before": self._view(self._before), "after": self._view(self._now)}

    # The steps.

    def _is_drain_wanted(self) -> bool:
        if self._before is None:
            self.message = "does not run: there is nothing to drain"
        elif self._by in self._before.drained_by and _is_empty(self._before):
            self.message = f"was drained by {self._by} already"
        else:
            return True
        return False

    def _is_undrain_wanted(self) -> bool:
        if self._before is None:
            self.message = "does not run: there is nothing to undo"
        elif self._by not in self._before.drained_by:
            self.message = self._still_drained() or f"was not drained by {self._by}"
        else:
            return True
        return False

    def _await_end(self, force: bool) -> None:
        self._until_empty(self._wait, self._slice)
        now = self._now
        if now is not None and not self._is_done and not self._wait.over:
            seen = {"before": dataclasses.asdict(self._was), "now": dataclasses.asdict(now)}
            self.so_far = {"began": self._wait.began, "timeline": self._timeline, **seen}
            self.message = f"has {self._left} of {self._was.connections} connections left so far"
            return
        if self._left and force:
            self._late = self._left
            hurry = Wait(_FORCE_S, self._clock)
            self._see(self._persist(lambda: self._worker.control.hurry(self._by), hurry))
            self._until_empty(hurry, hurry)
        elif self._left:
            raise self._error(
                f"has {self._left} of {self._was.connections} connections left after {self._timeout_s:g} s. "
                f"It continues to drain with the name {self._by}: run this playbook again to wait longer, or end the drain with state=undrained"
            )
        self.message = self._summary()

    @property
    def _is_done(self) -> bool:
        """No client is left, or the process has ended."""
        return self._now is None or _is_empty(self._now)

    def _until_empty(self, wait: Wait, slice_: Wait) -> None:
        """Wait until the drain is done or a wait is over.

        Raises WorkerError if another user undid it.
        """
        # The last closing handshakes take no longer than the start of another slice.
        while not (self._is_done or wait.over or (slice_.over and self._left)):
            wait.pause()
            self._look_again(wait)

    def _look_again(self, wait: Wait) -> None:
        self._see(self._persist(self._worker.control.status, wait))
        if self._now is None or self._by in self._now.drained_by:
            return
        if self._now.pid != self._was.pid:
            raise self._error(
                f"was replaced while it drained: process {self._was.pid} has ended, and process {self._now.pid} lets clients in"
            )
        raise self._error(f"is no longer drained by {self._by}: another user undid it meanwhile")

    def _see(self, status: Status | None) -> None:
        self._now = status
        seen = {"connections": _connections(status), "state": self._state(status)}
        last = self._timeline[-1] if self._timeline else {}
        if seen.items() - last.items():  # only changes are recorded
            self._timeline.append({"seconds": round(self._wait.seconds, 2), **seen})

    def _persist(self, ask: Callable[[], Status], wait: Wait) -> Status | None:
        """Ask until `wait` is over, because a worker may be busy.

        None: no process serves the socket.
        """
        noticed = None
        while True:
            try:
                return ask()
            except NotServedError as error:
                noticed = noticed or Wait(_NOTICED_S, self._clock)
                if not self._serves():
                    return None
                if noticed.over or wait.over:
                    raise self._error(
                        f"runs, but {error}. Early releases and units have no control socket: replace such a worker without this "
                        f"module, with systemctl restart {self._worker.instance.unit}, which also disconnects its clients"
                    ) from None
            except UnansweredError as error:
                if wait.over:
                    raise self._error(str(error)) from None
            except ControlError as error:
                raise self._error(str(error)) from None
            wait.pause()

    def _serves(self) -> bool:
        try:
            return self._worker.unit().serves
        except SystemdError as error:
            raise self._error(f"does not answer, and whether it runs is unknown: {error}") from None

    @property
    def _was(self) -> Status:
        """The status at the first look, of a worker that ran then."""
        return cast("Status", self._before)

    # Messages.

    @property
    def _left(self) -> int:
        return _connections(self._now)

    def _state(self, status: Status | None) -> str:
        if status is not None:
            return status.state
        if not self._looked:
            return "unknown"
        return "down" if self._worker.instance.exists else "absent"

    def _view(self, status: Status | None) -> dict[str, Any]:
        return {
            "state": self._state(status),
            "drained_by": status.drained_by if status else [],
            "connections": _connections(status),
        }

    def _summary(self) -> str:
        seconds = f"{self._wait.seconds:.1f} s"
        if self._now is None:
            return f"ended after {seconds}, before it was drained: no client is connected to it"
        if self._late:
            left = f", {self._left} of which are still open" if self._left else ""
            return f"has closed {self._late} connections by force{left}, after {seconds}"
        return f"is drained of {_connections(self._before)} connections after {seconds}"

    def _still_drained(self) -> str:
        by = self._now.drained_by if self._now else []
        return f"stays drained by {', '.join(by)}" if by else ""

    def _error(self, why: str) -> WorkerError:
        return WorkerError(f"Worker {self._worker.name} {why}.")


def _connections(status: Status | None) -> int:
    return status.connections if status else 0


def _is_empty(status: Status) -> bool:
    return status.state == "drained" and status.connections == 0
