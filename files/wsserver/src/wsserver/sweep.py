# SPDX-License-Identifier: MIT
"""One sweep a second in place of timers: heartbeats, and every deadline that a connection has."""

from __future__ import annotations

import time

from websockets.frames import CloseCode

from wsserver.connection import Connection

_HANDSHAKE_S = 10.0
_CLOSING_S = 5.0


class Sweep:
    """All connections of this worker, in as many buckets as a heartbeat has seconds: each second visits one.

    heartbeat_s: seconds between two pings of a connection; one that is silent from one ping to the next is dead,
    unless it is this worker that does not listen.
    slow_client_s: how long a client may leave its full buffer unread.
    """

    def __init__(self, heartbeat_s: float, slow_client_s: float) -> None:
        self._slow_client_s = slow_client_s
        self._buckets: list[dict[Connection, None]] = [{} for _second in range(max(1, round(heartbeat_s)))]
        self._turn = 0
        self._handshaking: dict[Connection, float] = {}
        self._closing: dict[Connection, float] = {}

    @property
    def open_connections(self) -> list[Connection]:
        return [connection for bucket in self._buckets for connection in bucket]

    @property
    def idle(self) -> bool:
        """True once no connection is left in any state."""
        return not self._handshaking and not self._closing and not any(self._buckets)

    def opened(self, connection: Connection) -> None:
        self._handshaking[connection] = time.monotonic() + _HANDSHAKE_S

    def connected(self, connection: Connection) -> None:
        del self._handshaking[connection]
        self._bucket(connection)[connection] = None

    def closing(self, connection: Connection) -> None:
        self._bucket(connection).pop(connection, None)
        self._closing[connection] = time.monotonic() + _CLOSING_S

    def lost(self, connection: Connection) -> None:
        self._handshaking.pop(connection, None)
        self._closing.pop(connection, None)
        self._bucket(connection).pop(connection, None)

    def _bucket(self, connection: Connection) -> dict[Connection, None]:
        return self._buckets[connection.wire.id.int % len(self._buckets)]

    def tick(self) -> None:
        """Call once a second."""
        now = time.monotonic()
        for deadlines in (self._handshaking, self._closing):
            # Deadlines of one kind are equally long: the dict is in their order.
            for connection in [c for c, deadline in deadlines.items() if deadline < now]:
                connection.abort()
        self._turn = (self._turn + 1) % len(self._buckets)
        for connection in list(self._buckets[self._turn]):
            self._beat(connection, now)

    def _beat(self, connection: Connection, now: float) -> None:
        session = connection.session
        if session is not None and session.paused:
            if now - session.paused_at > self._slow_client_s:
                connection.close(CloseCode.TRY_AGAIN_LATER, "too slow")
        elif not connection.heard and not connection.holding:
            connection.close(CloseCode.INTERNAL_ERROR, "no answer to pings")
        else:
            connection.heard = False
            connection.ping()
