# SPDX-License-Identifier: MIT
"""What the log must not contain."""

from __future__ import annotations

import json
import subprocess
import sys

from support.worker import environment

PROGRAM = """
import logging
from wsserver.telemetry import logs
logs.set_up("info")
def fails(token):
    raise ValueError("why")
try:
    fails("SECRET-TOKEN")
except ValueError:
    logs.log.exception("failed")
    logging.getLogger("asyncio").exception("failed, too")
"""


def test_an_exception_is_logged_without_the_values_of_variables() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(), capture_output=True, text=True, timeout=30, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["failed", "failed, too"]
    for line in lines:
        assert "why" in json.dumps(line["exception"])
        assert "SECRET-TOKEN" not in json.dumps(line)
