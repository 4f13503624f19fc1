# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""One worker as the modules deal with it: what it says of itself, and what systemd says of it."""

from __future__ import annotations

from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control
from ansible_collections.selfhost.websocket.plugins.module_utils._instance import Instance
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import Run, Unit, show


class WorkerError(Exception):
    """What was wanted of a worker did not come about; the text is for the operator."""


class Worker:
    """`socket`: its control socket, if that is not where the role puts it."""

    def __init__(self, run: Run, name: str, socket: str | None = None) -> None:
        self.name = name
        self.instance = Instance(name)
        self.control = Control(socket or self.instance.socket)
        self._run = run

    def unit(self) -> Unit:
        """Raises SystemdError."""
        return show(self._run, [self.instance.unit])[0]
