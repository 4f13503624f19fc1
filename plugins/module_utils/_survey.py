# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Reads the state of the workers of a host."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.selfhost.websocket.plugins.module_utils import _readyz
from ansible_collections.selfhost.websocket.plugins.module_utils._control import (
    Control,
    ControlError,
    NotServedError,
    Status,
    UnansweredError,
)
from ansible_collections.selfhost.websocket.plugins.module_utils._instance import Instance
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import Run, Unit, show


def survey(run: Run, names: list[str]) -> list[dict[str, Any]]:
    """Return a dictionary for each worker, in the order of `names`. Raises SystemdError."""
    if not names:
        return []
    instances = [Instance(name) for name in names]
    units = show(run, [instance.unit for instance in instances])
    with ThreadPoolExecutor(len(names)) as threads:  # a worker that hangs does not delay the others
        return list(threads.map(_facts, instances, units))


def _facts(instance: Instance, unit: Unit) -> dict[str, Any]:
    status, complaint = _ask(instance)
    state = status.state if status else _state(instance, unit, complaint)
    started_at = status.started_at if status else unit.started_at
    return {
        "instance": instance.name,
        "state": state,
        "ready": state == "ready",
        "version": status.version if status else instance.version,
        "generation": instance.generation,
        "generation_before": instance.generation_before,
        "linked_at": instance.linked_at,
        "serving": unit.serves and unit.enabled,
        "pid": status.pid if status else unit.pid,
        "started_at": started_at,
        "last_started_at": unit.last_started_at,
        "uptime_s": round(max(time.time() - started_at, 0.0), 1) if started_at else None,
        "connections": status.connections if status else None if unit.pid else 0,
        "rooms": status.rooms if status else None if unit.pid else 0,
        "drained_by": status.drained_by if status else [],
        "broker": status.broker if status else None,
        "archive": status.archive if status else None,
        "complaint": str(complaint) if complaint and unit.pid else None,
    }


def _ask(instance: Instance) -> tuple[Status | None, ControlError | None]:
    """Return the worker's status, or the reason why there is none."""
    try:
        return Control(instance.socket).status(), None
    except ControlError as error:
        return None, error


def _state(instance: Instance, unit: Unit, complaint: ControlError | None) -> str:
    """Derive the state of a worker that does not report one."""
    if not unit.serves:
        return _UNIT_STATES.get(unit.active, "down") if instance.exists else "absent"
    if isinstance(complaint, UnansweredError):
        return "unresponsive"
    if isinstance(complaint, NotServedError):  # an early release or unit without a control socket
        return "ready" if _readyz.ask(f"{instance.url}/readyz").ready else "not_ready"
    return "unknown"


_UNIT_STATES = {"activating": "starting", "failed": "failed"}
