# SPDX-License-Identifier: MIT
"""All connections of a worker, and one timer for their heartbeats and deadlines."""

from __future__ import annotations

import random
import time

from websockets.frames import CloseCode

from wsserver.protocol.events import Reconnect
from wsserver.telemetry import metrics
from wsserver.transport.connection import Connection

_CLOSING_S = 5.0
# The least time between the `expiring` event and the expiry of a token.
_EXPIRY_NOTICE_S = 60.0
_AFTER_MS_MAX = 2000


class ConnectionRegistry:
    """All connections of this worker, in one bucket per second of the heartbeat: each tick visits
    one bucket.

    handshake_s: seconds for a request to arrive and be answered. heartbeat_s: seconds between two
    pings of a connection. A connection that is silent from one ping to the next is dead, unless
    this worker has paused reading. slow_client_s: seconds for which a client may leave its full
    buffer unread.
    """

    def __init__(self, handshake_s: float, heartbeat_s: float, slow_client_s: float) -> None:
        self._handshake_s = handshake_s
        self._heartbeat_s = heartbeat_s
        self._slow_client_s = slow_client_s
        self._buckets: list[dict[Connection, None]] = [{} for _second in range(max(1, round(heartbeat_s)))]
        self._turn = 0
        self._handshaking: dict[Connection, float] = {}
        self._closing: dict[Connection, float] = {}
        self._throttled: set[Connection] = set()

    @property
    def open_connections(self) -> list[Connection]:
        return [client for bucket in self._buckets for client in bucket]

    @property
    def open_count(self) -> int:
        return sum(map(len, self._buckets))

    @property
    def handshaking_count(self) -> int:
        return len(self._handshaking)

    @property
    def closing_count(self) -> int:
        return len(self._closing)

    @property
    def idle(self) -> bool:
        """True once no connection is left in any state."""
        return not self._handshaking and not self._closing and not any(self._buckets)

    def opened(self, client: Connection) -> None:
        self._handshaking[client] = time.monotonic() + self._handshake_s

    def connected(self, client: Connection) -> None:
        self._handshaking.pop(client, None)
        self._bucket(client)[client] = None

    def throttled(self, client: Connection) -> None:
        self._throttled.add(client)

    def closing(self, client: Connection) -> None:
        self._bucket(client).pop(client, None)
        self._closing[client] = time.monotonic() + _CLOSING_S

    def lost(self, client: Connection) -> None:
        self._handshaking.pop(client, None)
        self._closing.pop(client, None)
        self._throttled.discard(client)
        self._bucket(client).pop(client, None)

    def _bucket(self, client: Connection) -> dict[Connection, None]:
        return self._buckets[client.id.int % len(self._buckets)]

    def tick(self) -> None:
        """Call once a second."""
        now = time.monotonic()
        # Deadlines of one kind have equal lengths: the dict is in their order.
        for client in [client for client, deadline in self._handshaking.items() if deadline < now]:
            metrics.LIMITED.labels("handshake").inc()
            client.time_out()
        for client in [client for client, deadline in self._closing.items() if deadline < now]:
            client.abort()
        for client in list(self._throttled):
            if client.session is None or client.session.resume_if_paid():
                self._throttled.discard(client)
        self._turn = (self._turn + 1) % len(self._buckets)
        for client in list(self._buckets[self._turn]):
            self._beat(client, now)

    def _beat(self, client: Connection, now: float) -> None:
        session = client.session
        if session is None:
            return
        if session.paused:
            if now - session.paused_at > self._slow_client_s:
                metrics.LIMITED.labels("slow_client").inc()
                client.close(CloseCode.TRY_AGAIN_LATER, "too slow")
            return
        if not client.heard and not client.holding:
            metrics.LIMITED.labels("heartbeat").inc()
            client.close(CloseCode.INTERNAL_ERROR, "no answer to pings")
            return
        if session.retiring:
            client.close(CloseCode.GOING_AWAY, "connected for long enough")
            return
        left = session.identity.expires - time.time()
        if left <= 0:
            client.close(CloseCode.POLICY_VIOLATION, "token expired")
            return
        if left < _EXPIRY_NOTICE_S + self._heartbeat_s and not session.expiry_announced:
            session.tell_expiry()
        if now > client.retire_at:
            session.retiring = True
            session.send(Reconnect(random.randint(0, _AFTER_MS_MAX), "connected for long enough"))
        client.heard = False
        client.ping()
