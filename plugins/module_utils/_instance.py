# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The paths and names of one worker of this host: its link, unit, socket and port."""

from __future__ import annotations

import pathlib
import re

HOME = pathlib.Path("/opt/ws-server")
RUN = pathlib.Path("/run/ws-server")

# This file is in HOME/before until the rollout is closed.
UNFINISHED = ".unfinished"

_LISTEN_ADDRESS = re.compile(r"""^WS_LISTEN_ADDRESS=["']?([^"'\s,]+)""", re.MULTILINE)


def is_name(name: str) -> bool:
    """Whether a name has two digits: worker 80 listens on port 8080."""
    return re.fullmatch(r"[0-9]{2}", name) is not None


def not_a_name(name: str) -> str:
    return f"instance: {name!r} is not a worker's name: use two digits, such as 80."


def names() -> list[str]:
    """The names of all workers of this host."""
    return sorted(path.name for path in HOME.glob("instances/*") if is_name(path.name))


def before() -> dict[str, str]:
    """Return the generation of each instance before the last rollout."""
    links = [path for path in HOME.glob("before/*") if is_name(path.name) and path.is_symlink()]
    return {link.name: link.readlink().name for link in links}


class Instance:
    def __init__(self, name: str) -> None:
        self.name = name
        self.unit = f"ws-server@{name}.service"
        self.socket = str(RUN / name / "control.sock")
        self._link = HOME / "instances" / name

    @property
    def exists(self) -> bool:
        return self._link.is_symlink()

    @property
    def generation(self) -> str | None:
        """The generation that the link names now.

        A running process may have started from an earlier one.
        """
        return self._link.readlink().name if self.exists else None

    @property
    def linked_at(self) -> float | None:
        """The Unix time when the link was last moved."""
        return self._link.lstat().st_mtime if self.exists else None

    @property
    def generation_before(self) -> str | None:
        """The generation before the open rollout.

        None without such a rollout, or for a new worker.
        """
        return before().get(self.name) if (HOME / "before" / UNFINISHED).exists() else None

    @property
    def version(self) -> str | None:
        """The version of the release in the current generation."""
        release = self._link / "release"
        return release.resolve().name if release.is_symlink() else None

    @property
    def url(self) -> str:
        """The URL for clients, with the first address in the settings.

        Raises OSError if the settings exist and cannot be read.
        """
        try:
            found = _LISTEN_ADDRESS.findall((self._link / "env").read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = []
        address = found[-1] if found else "127.0.0.1"
        return f"http://{f'[{address}]' if ':' in address else address}:80{self.name}"
