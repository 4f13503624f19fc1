# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The watcher's loop: read nginx's configuration, poll its workers, change the upstream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import groupby

from _nginx import Applied, Nginx, NotAppliedError
from _upstream import Server, UpstreamError, marked, servers

from .journal import log
from .metrics import Known
from .policy import Policy
from .polling import ask_all, of_host

NAME = "watcher"
INTERVAL_S = 1.0
# The pause after a failed change: an immediate second attempt would most likely fail, too.
PAUSE_S = 10.0


class Watcher:
    """Watches one upstream. Calls `alive` after each poll."""

    def __init__(self, nginx: Nginx, upstream: str, alive: Callable[[], None]) -> None:
        self.known = Known()
        self._nginx = nginx
        self._upstream = upstream
        self._alive = alive
        self._policy = Policy(NAME, time.monotonic)
        self._pause_until = 0.0
        self._trouble = ""

    async def run(self) -> None:
        """Poll once per second, forever. Each poll reads nginx's configuration again."""
        # If an earlier watcher was killed between writing and reloading, this reloads nginx.
        await self._carry_out(lambda configuration: configuration)
        while True:
            begin = time.monotonic()
            await self._poll()
            self._alive()
            await asyncio.sleep(max(0.0, begin + INTERVAL_S - time.monotonic()))

    async def _poll(self) -> None:
        try:
            present = servers(self._nginx.read(), self._upstream)
        except (OSError, UpstreamError) as error:
            present = []
            self._log_trouble(str(error))
        else:
            self._log_trouble("")
        outcomes = await ask_all([server.address for server in present])
        by_host = groupby(sorted(present, key=lambda server: server.host), key=lambda server: server.host)
        self._policy.record({host: of_host(outcomes[server.address] for server in group) for host, group in by_host})
        self.known.servers, self.known.outcomes, self.known.last_poll = present, outcomes, time.time()
        out = self._policy.out(present)
        if self._differs(present, out) and time.monotonic() >= self._pause_until:
            await self._carry_out(self._with_marks)

    def _differs(self, present: list[Server], out: set[str]) -> bool:
        return any((NAME in server.down_by) != (server.host in out) for server in present)

    def _with_marks(self, configuration: str) -> str:
        """Decide again under the lock: an operator may have taken another host out meanwhile."""
        present = servers(configuration, self._upstream)
        out = self._policy.out(present)
        return marked(configuration, self._upstream, NAME, {server.address for server in present if server.host in out})

    async def _carry_out(self, change: Callable[[str], str]) -> None:
        try:
            applied = await asyncio.to_thread(self._nginx.apply, change)
        except (OSError, UpstreamError, NotAppliedError) as error:
            self.known.failures += 1
            self._pause_until = time.monotonic() + PAUSE_S
            self._policy.reloaded()
            log("failed", error=str(error))
            return
        if applied.reloaded:
            self.known.reloads += 1
            self._policy.reloaded()
        self._report(applied)

    def _report(self, applied: Applied) -> None:
        if applied.before == applied.after:
            if applied.reloaded:
                log("reloaded", why="the configuration was newer than nginx's last reload")
            return
        self.known.servers = servers(applied.after, self._upstream)
        held = [
            {server.host for server in servers(text, self._upstream) if NAME in server.down_by}
            for text in (applied.before, applied.after)
        ]
        for event, hosts in (("out", held[1] - held[0]), ("back", held[0] - held[1])):
            for host in sorted(hosts):
                log(event, host=host, reloaded=applied.reloaded)

    def _log_trouble(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log("unreadable", error=trouble)
        self._trouble = trouble
