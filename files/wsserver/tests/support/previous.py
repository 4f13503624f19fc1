# SPDX-License-Identifier: MIT
"""Workers of the previous release, from the history of this clone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.worker import Worker, environment

_ROOT = Path(__file__).parents[4]
# The release does not know all of today's limits.
_DEFAULTS: dict[str, str] = {}


def previous_release(directory: Path) -> Path:
    """Write the source of the service to `directory`, and return where to import it from."""
    commit = (_ROOT / "tests/fleet/previous_release").read_text().strip()
    archive = subprocess.run(
        ["git", "archive", commit, "files/wsserver/src"], check=True, stdout=subprocess.PIPE, cwd=_ROOT
    )
    subprocess.run(["tar", "-x", "-C", directory], check=True, input=archive.stdout)
    return directory / "files/wsserver/src"


class PreviousWorker(Worker):
    """A worker in a new interpreter, which imports the service from `source`."""

    _limits = _DEFAULTS

    def __init__(self, redis_url: str, source: Path, **settings: str) -> None:
        self._source = source
        super().__init__(redis_url, **settings)

    def _spawn(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", *self._command]
        variables = environment(**self._settings) | {"PYTHONPATH": str(self._source)}
        return subprocess.Popen(command, env=variables, stdout=self._output, stderr=subprocess.STDOUT, text=True)
