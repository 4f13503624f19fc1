# SPDX-License-Identifier: MIT
"""What all sessions of a worker share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from wsserver.auth import Authenticator
from wsserver.history import History
from wsserver.hub import Hub
from wsserver.limits import ConnectionLimits
from wsserver.outbox import Outbox
from wsserver.presence import Presence
from wsserver.publisher import Publisher
from wsserver.quotas import Quotas


@dataclass(slots=True)
class Services:
    authenticator: Authenticator
    hub: Hub
    outbox: Outbox
    publisher: Publisher
    presence: Presence
    history: History
    quotas: Quotas
    limits: ConnectionLimits
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Start `work` and keep it alive: the loop itself has only weak references."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
