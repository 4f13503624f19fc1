# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""One worker for the modules: its own status, and its state in systemd."""

from __future__ import annotations

from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control
from ansible_collections.selfhost.websocket.plugins.module_utils._instance import Instance
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import Run, Unit, show


class WorkerError(Exception):
    """An operation on a worker failed; the text is for the operator."""


class Worker:
    """One worker. `socket` overrides the path of the control socket."""

    def __init__(self, run: Run, name: str, socket: str | None = None) -> None:
        self.name = name
        self.instance = Instance(name)
        self.control = Control(socket or self.instance.socket)
        self._run = run

    def unit(self) -> Unit:
        """Raises SystemdError."""
        return show(self._run, [self.instance.unit])[0]
