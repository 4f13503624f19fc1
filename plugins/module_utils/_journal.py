# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The end of a worker's log, for people: the service writes JSON, and systemd writes sentences between."""

from __future__ import annotations

import json

from ansible_collections.selfhost.websocket.plugins.module_utils._unit import Run

_LINES = 20
_LINE_CHARACTERS = 400


def last_lines(run: Run, unit: str) -> list:
    """At most 20, the newest last; what is wrong with the journal is said in their place."""
    status, output, errors = run(["journalctl", "-u", unit, "-n", str(_LINES), "-o", "cat", "--no-pager", "-q"])
    if status != 0:
        return [f"(no log: {errors.strip() or f'journalctl ended with exit status {status}'})"]
    return [readable(line)[:_LINE_CHARACTERS] for line in output.splitlines()]


def readable(line: str) -> str:
    """`{"event":"ready","level":"info",…}` becomes `14:16:46 info ready …`; what is no such line stays as it is."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    time = str(entry.pop("timestamp", ""))[11:19]
    entry.pop("instance", None)
    words = [time, entry.pop("level", ""), entry.pop("event")]
    words += [f"{name}={_value(name, value)}" for name, value in entry.items()]
    return " ".join(str(word) for word in words if word != "")


def _value(name: str, value: object) -> str:
    if name == "exception" and isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{value[0].get('exc_type')}: {value[0].get('exc_value')}"  # the rest is the stack
    return value if isinstance(value, str) else json.dumps(value)
