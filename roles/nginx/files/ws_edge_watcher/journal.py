# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The watcher's journal."""

from __future__ import annotations

import json
import sys
import time


def log(event: str, **details: object) -> None:
    """Print one line of JSON."""
    print(json.dumps({"time": time.time(), "event": event, **details}), file=sys.stdout, flush=True)
