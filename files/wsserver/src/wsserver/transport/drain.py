# SPDX-License-Identifier: MIT
"""The drain of a worker: who holds it, and how it sends the clients to other workers.

Each client gets a hint to reconnect, spread over a window, and later a close with 1001.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Literal

from websockets.frames import CloseCode

from wsserver.protocol.events import Reconnect
from wsserver.telemetry.logs import log
from wsserver.transport.connection import Connection
from wsserver.transport.registry import ConnectionRegistry

_STEP_S = 0.05
# Do not pace a few clients: this many per second are no load for an edge or for the other workers.
_UNPACED_PER_S = 500
_AFTER_MS_MAX = 500
_GRACE_S = 1.5
_CLOSE_WAIT_S = 3.0
_WHY = "the server is going away"


async def drain(connections: ConnectionRegistry, window_s: float) -> None:
    """Hint all clients within `window_s`, close the rest after a grace, and wait until they are
    gone.
    """
    clients = connections.open_connections
    random.shuffle(clients)  # clients that arrived together, often from one place, must not leave together
    batch_size = int(max(len(clients) / max(window_s, _STEP_S), _UNPACED_PER_S) * _STEP_S) + 1
    loop = asyncio.get_running_loop()
    due = loop.time()
    async with asyncio.TaskGroup() as closing:
        for start in range(0, len(clients), batch_size):
            batch = clients[start : start + batch_size]
            for client in batch:
                if client.session is not None:
                    client.session.send(Reconnect(random.randint(0, _AFTER_MS_MAX), _WHY))
            closing.create_task(_close(batch))
            due += _STEP_S  # the work of a step must not make the window longer
            await asyncio.sleep(due - loop.time())
    until = loop.time() + _CLOSE_WAIT_S
    while not connections.idle and loop.time() < until:
        # A client may have connected since: it had spent its ticket when the drain began.
        for client in connections.open_connections:
            client.close(CloseCode.GOING_AWAY, _WHY)
        await asyncio.sleep(_STEP_S)


async def _close(batch: list[Connection]) -> None:
    await asyncio.sleep(_GRACE_S)
    for client in batch:
        client.close(CloseCode.GOING_AWAY, _WHY)


class DrainHeldByOthers(Exception):
    """Other callers hold the drain; the text names them."""


class WorkerDrain:
    """The state of one worker's drain.

    `send_away(window_s)` empties the worker; None: the window of the settings.

    The worker accepts clients again when every caller that drained it has undrained it: an update
    that drains and undrains must not let clients in while an operator works on the worker.
    """

    def __init__(self, send_away: Callable[[float | None], Awaitable[None]]) -> None:
        self._send_away = send_away
        self._by: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def by(self) -> list[str]:
        """The callers that hold the drain, in the order of their requests."""
        return list(self._by)

    @property
    def state(self) -> Literal["draining", "drained"] | None:
        """None while the worker accepts clients."""
        if self._task is None:
            return None
        return "drained" if self._task.done() else "draining"

    def drain(self, by: str, window_s: float | None = None) -> asyncio.Task[None]:
        """Join the running or finished drain, else start one; the task ends when the worker is
        empty.
        """
        if by not in self._by:
            log.info("drain", by=by, joined=self.by)
        self._by[by] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(window_s))
        return self._task

    async def stop(self) -> None:
        """Drain before the process ends; cannot be undone."""
        self._stopping = True
        await self.drain("stop")

    async def _run(self, window_s: float | None) -> None:
        try:
            await self._send_away(window_s)
        except Exception:
            # A programming error; callers see in the status which clients are left.
            log.exception("drain_failed")

    def undrain(self, by: str, force: bool = False) -> None:
        """`force`: for all callers. Raises DrainHeldByOthers."""
        if self._stopping:
            raise DrainHeldByOthers("the worker is stopping")
        if self._by and by not in self._by and not force:
            raise DrainHeldByOthers(f"drained by {', '.join(self._by)}: undrain in that name, or by force")
        if force:
            self._by.clear()
        self._by.pop(by, None)
        log.info("undrain", by=by, force=force, still=self.by)
        if not self._by and self._task is not None:
            self._task.cancel()
            self._task = None
