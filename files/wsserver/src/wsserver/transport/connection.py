# SPDX-License-Identifier: MIT
"""The base of WebSocket connections and event streams: a transport, a session, and the state of
heartbeats.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol
from uuid import UUID

from wsserver.sessions.session import Session
from wsserver.telemetry.logs import log


class Owner(Protocol):
    """The acceptor, as a connection sees it."""

    def schedule(self, client: Connection) -> None:
        """The connection has a new deadline."""

    def closing(self, client: Connection) -> None: ...
    def lost(self, client: Connection) -> None: ...


class Connection(asyncio.BaseProtocol):
    """The worker's end of one client's connection.

    heard: the client sent something since the last heartbeat. holding: reading is paused.
    opened_at, and retire_at (when the worker asks the client to reconnect): time.monotonic.
    visit_at: belongs to the registry.
    """

    __slots__ = ("_owner", "heard", "holding", "opened_at", "remote", "retire_at", "session", "transport", "visit_at")

    transport: asyncio.Transport

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.session: Session | None = None
        self.heard = True
        self.holding = False
        self.opened_at = time.monotonic()
        self.retire_at = math.inf
        self.remote = ""
        self.visit_at = 0

    # asyncio.BaseProtocol.

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.pause()
            self._owner.schedule(self)

    def resume_writing(self) -> None:
        self.heard = True  # the last ping may have waited in the buffer: wait for the next
        if self.session is not None:
            self.session.resume()

    # ClientTransport, for the session.

    def write(self, chunk: bytes) -> None:
        try:
            self.transport.write(chunk)
        except Exception:
            # The other clients of the same message must get theirs.
            log.exception("write_failed", connection=self.id.hex)
            self.transport.abort()

    def renewed(self) -> None:
        self._owner.schedule(self)

    # For the worker.

    @property
    def id(self) -> UUID:
        """Names the client in the log."""
        raise NotImplementedError

    @property
    def close_code(self) -> int:
        """The close code that came first, from the client or from this worker; 1006 for none."""
        raise NotImplementedError

    @property
    def close_reason(self) -> str:
        raise NotImplementedError

    def ping(self) -> None:
        raise NotImplementedError

    def close(self, code: int, reason: str) -> None:
        """Write everything that is queued, send the reason, and end the connection."""
        raise NotImplementedError

    def time_out(self) -> None:
        """The request did not arrive, or was not answered, in time."""
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()
