# SPDX-License-Identifier: MIT
"""What a WebSocket connection and an event stream have in common: a transport, a session, and what a sweep looks at."""

from __future__ import annotations

import asyncio
import math
import time
from uuid import UUID

from wsserver.sessions.session import Session


class Endpoint(asyncio.BaseProtocol):
    """One client's end of the server.

    heard: since the last heartbeat. holding: not read from. opened_at, retire_at (when the client is asked to
    reconnect): time.monotonic.
    """

    __slots__ = ("heard", "holding", "opened_at", "remote", "retire_at", "session", "transport")

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.session: Session | None = None
        self.heard = True
        self.holding = False
        self.opened_at = time.monotonic()
        self.retire_at = math.inf
        self.remote = ""

    # asyncio.BaseProtocol.

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.pause()

    def resume_writing(self) -> None:
        self.heard = True  # the last ping may have waited in the buffer; the next one counts
        if self.session is not None:
            self.session.resume()

    # Outlet of the session.

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    # The server's side.

    @property
    def id(self) -> UUID:
        """Names the client in the log."""
        raise NotImplementedError

    @property
    def close_code(self) -> int:
        """What ended the connection: the client's own code, or the one that it was sent first; 1006 for none."""
        raise NotImplementedError

    @property
    def close_reason(self) -> str:
        raise NotImplementedError

    def ping(self) -> None:
        raise NotImplementedError

    def close(self, code: int, reason: str) -> None:
        """Say why, after everything that is queued for the client, and end the connection."""
        raise NotImplementedError

    def time_out(self) -> None:
        """The request was not made, or not granted, in time."""
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()
