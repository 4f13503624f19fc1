# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Formats the end of a worker's log: the service writes JSON, and systemd writes sentences."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.selfhost.websocket.plugins.module_utils._unit import Run

_LINES = 20
# Many of these lines may be about clients, which say nothing about the worker.
_LOOKED_AT = 500
_LINE_CHARACTERS = 400


def last_lines(run: Run, unit: str) -> list[str]:
    """Return at most 20 lines about the worker, but not about its clients, the newest last.

    If the journal cannot be read, return the reason instead.
    """
    status, output, errors = run(["journalctl", "-u", unit, "-n", str(_LOOKED_AT), "-o", "cat", "--no-pager", "-q"])
    if status != 0:
        return [f"(no log: {errors.strip() or f'journalctl ended with exit status {status}'})"]
    lines = [line for line in output.splitlines() if "connection" not in _entry(line)]
    return [readable(line)[:_LINE_CHARACTERS] for line in lines[-_LINES:]]


def readable(line: str) -> str:
    """Turn `{"event":"ready","level":"info",…}` into `14:16:46 info ready …`. Keep other lines."""
    entry = _entry(line)
    if not entry:
        return line
    time = str(entry.pop("timestamp", ""))[11:19]
    entry.pop("instance", None)
    words = [time, entry.pop("level", ""), entry.pop("event")]
    words += [f"{name}={_value(name, value)}" for name, value in entry.items()]
    return " ".join(str(word) for word in words if word != "")


def _entry(line: str) -> dict[str, Any]:
    """Parse the service's JSON of a line. Empty for lines of other programs."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) and "event" in entry else {}


def _value(name: str, value: object) -> str:
    if name == "exception" and isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{value[0].get('exc_type')}: {value[0].get('exc_value')}"  # the rest is the stack
    return value if isinstance(value, str) else json.dumps(value)
