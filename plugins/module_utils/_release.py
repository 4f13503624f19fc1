# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Lists the releases of this host, and checks whether the host's Python can still run them."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Sequence

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance

PYTHON = "/usr/bin/python3"
_ABI = "import sysconfig; print(sysconfig.get_config_var('SOABI'))"

Run = Callable[[Sequence[str]], tuple[int, str, str]]


class PythonError(Exception):
    """The host's Python cannot report its ABI."""


def host_abi(run: Run) -> str:
    """Interpreter and architecture in one word, as in the file names of compiled modules."""
    if not pathlib.Path(PYTHON).exists():
        raise PythonError(f"{PYTHON} does not exist: install the package python3")
    status, out, err = run([PYTHON, "-c", _ABI])
    if status != 0:
        raise PythonError(f"{PYTHON} failed: {err.strip()}")
    return out.strip()


def releases() -> list[dict[str, object]]:
    """Return all releases of this host, ordered by name."""
    found = (path for path in _instance.HOME.glob("releases/*") if path.is_dir() and path.suffix != ".build")
    return [_describe(path) for path in sorted(found)]


def _describe(release: pathlib.Path) -> dict[str, object]:
    link = release / "environment"
    return {
        "version": release.name,
        # Releases of earlier versions of this collection contain their dependencies and have no
        # link.
        "environment": link.readlink().name if link.is_symlink() else None,
        "complaint": _complaint(release),
    }


def _complaint(release: pathlib.Path) -> str | None:
    if not (release / ".complete").exists():
        return "its build was interrupted"
    # The interpreter is a link to a link: in an earlier version of this collection, the link
    # pointed at python3, which became another interpreter.
    interpreter = (release / "bin" / "python").resolve()
    if not interpreter.exists():
        return f"its interpreter {interpreter} no longer exists"
    if not (release / "lib" / interpreter.name / "site-packages" / "wsserver").is_dir():
        built = ", ".join(map(_readable, sorted(path.name for path in release.glob("lib/python*"))))
        return f"it was built for {built or 'another interpreter'}, and the host has {_readable(interpreter.name)}"
    link = release / "environment"
    if link.is_symlink() and not (link / ".complete").exists():
        return f"its environment {link.readlink().name} no longer exists"
    return None


def _readable(interpreter: str) -> str:
    return re.sub("^python", "Python ", interpreter)
