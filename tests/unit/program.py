# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def finished(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **options
    )


def eventually(condition: Callable[[], bool], what: str, within: float = 60) -> float:
    """Wait until `condition` holds, and return the seconds. Fails after `within` seconds."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < within, f"not within {within} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - begin
