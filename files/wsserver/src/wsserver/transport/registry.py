# SPDX-License-Identifier: MIT
"""All connections of a worker, and one timer for their heartbeats and deadlines.

The timer visits each connection once a heartbeat. A deadline before the next visit gets a visit of
its own, in its second: expiry, age and silence do not wait for a heartbeat, or for each other.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable

from websockets.frames import CloseCode

from wsserver.protocol.events import Reconnect
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log
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
        # Visits before the next heartbeat: second (time.monotonic) -> connections.
        self._visits: dict[int, set[Connection]] = {}
        # Most users have one connection, and a set for each would take more memory than all else
        # here.
        self._by_user: dict[str, Connection | set[Connection]] = {}

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

    def of_user(self, user: str) -> list[Connection]:
        """The open connections of a user."""
        found = self._by_user.get(user, set())
        return list(found) if isinstance(found, set) else [found]

    def drop_all(self) -> int:
        """End all connections at once, and read nothing more of them. Returns their number."""
        clients = [*self.open_connections, *self._handshaking, *self._closing]
        self._each(clients, _drop)
        return len(clients)

    def by_id(self, id: str) -> list[Connection]:
        """The open connection with this id (hex), or none."""
        try:
            bucket = self._buckets[int(id, 16) % len(self._buckets)]
        except ValueError:
            return []
        return [client for client in bucket if client.id.hex == id]

    def opened(self, client: Connection) -> None:
        self._handshaking[client] = time.monotonic() + self._handshake_s

    def connected(self, client: Connection) -> None:
        self._handshaking.pop(client, None)
        self._bucket(client)[client] = None
        if client.session is not None:
            self._index(client, client.session.identity.user)
            self.schedule(client)

    def schedule(self, client: Connection) -> None:
        """Visit this connection when its next deadline is due, if that is before its heartbeat.

        Call when the connection has a new deadline: a token, or a full send buffer.
        """
        now = time.monotonic()
        due = min(self._deadlines(client, now), default=math.inf)
        if client in self._bucket(client) and due < now + self._heartbeat_s:
            second = max(math.ceil(due), math.floor(now) + 1)
            if client.visit_at != second:
                self._cancel_visit(client)
                client.visit_at = second
                self._visits.setdefault(second, set()).add(client)

    def throttled(self, client: Connection) -> None:
        self._throttled.add(client)

    def closing(self, client: Connection) -> None:
        self._left(client)
        self._closing[client] = time.monotonic() + _CLOSING_S

    def lost(self, client: Connection) -> None:
        self._handshaking.pop(client, None)
        self._closing.pop(client, None)
        self._throttled.discard(client)
        self._left(client)

    def _left(self, client: Connection) -> None:
        """The connection is no longer open."""
        if client not in self._bucket(client):
            return
        del self._bucket(client)[client]
        self._cancel_visit(client)
        if client.session is not None:
            self._unindex(client, client.session.identity.user)

    def _index(self, client: Connection, user: str) -> None:
        found = self._by_user.setdefault(user, client)
        if isinstance(found, set):
            found.add(client)
        elif found is not client:
            self._by_user[user] = {found, client}

    def _unindex(self, client: Connection, user: str) -> None:
        found = self._by_user.get(user)
        if isinstance(found, set):
            found.discard(client)
        if not found or found is client:
            self._by_user.pop(user, None)

    def _cancel_visit(self, client: Connection) -> None:
        visit = self._visits.get(client.visit_at)
        if visit is not None:
            visit.discard(client)
            if not visit:
                del self._visits[client.visit_at]
        client.visit_at = 0

    def _bucket(self, client: Connection) -> dict[Connection, None]:
        return self._buckets[client.id.int % len(self._buckets)]

    def tick(self) -> None:
        """Call once a second."""
        now = time.monotonic()
        # Deadlines of one kind have equal lengths: the dict is in their order.
        self._each([client for client, deadline in self._handshaking.items() if deadline < now], self._time_out)
        self._each([client for client, deadline in self._closing.items() if deadline < now], _abort)
        throttled, self._throttled = self._throttled, set()
        self._each(throttled, self._resume)
        for second in [second for second in self._visits if second <= now]:
            self._each(self._visits.pop(second), self._visit)
        self._turn = (self._turn + 1) % len(self._buckets)
        self._each(list(self._buckets[self._turn]), self._beat)

    def _each(self, clients: Iterable[Connection], act: Callable[[Connection], None]) -> None:
        """Call `act` for each client. A fault with one of them ends that one only."""
        for client in clients:
            try:
                act(client)
            except Exception:
                log.exception("connection_failed", connection=client.id.hex)
                client.abort()

    def _time_out(self, client: Connection) -> None:
        metrics.LIMITED.labels("handshake").inc()
        client.time_out()

    def _resume(self, client: Connection) -> None:
        # A session that resumes may be throttled again at once.
        if client.session is not None and not client.session.resume_if_paid():
            self._throttled.add(client)

    def _visit(self, client: Connection) -> None:
        client.visit_at = 0
        if self._in_time(client, time.monotonic()):
            self.schedule(client)

    def _beat(self, client: Connection) -> None:
        if self._in_time(client, time.monotonic()):
            self._ping(client)
            self.schedule(client)

    def _ping(self, client: Connection) -> None:
        if client.session is None or client.session.paused:
            return  # a full buffer has its own deadline
        if not client.heard and not client.holding:
            metrics.LIMITED.labels("heartbeat").inc()
            client.close(CloseCode.INTERNAL_ERROR, "no answer to pings")
            return
        client.heard = False
        client.ping()

    def _deadlines(self, client: Connection, now: float) -> Iterable[float]:
        """When `_in_time` has something to do for this connection (time.monotonic)."""
        session = client.session
        if session is None:
            return
        expires = now + session.identity.expires - time.time()
        yield expires
        if not session.expiry_announced:
            yield expires - self._expiry_notice_s
        yield client.retire_at + (self._heartbeat_s if session.retiring else 0)
        if session.paused:
            yield session.paused_at + self._slow_client_s

    @property
    def _expiry_notice_s(self) -> float:
        return _EXPIRY_NOTICE_S + self._heartbeat_s

    def _in_time(self, client: Connection, now: float) -> bool:
        """Send the notices that are due. Close the connection, and return false, after its last
        deadline.
        """
        session = client.session
        if session is None:
            return False
        left = session.identity.expires - time.time()
        if left <= 0:
            client.close(CloseCode.POLICY_VIOLATION, "token expired")
            return False
        if session.paused and now - session.paused_at > self._slow_client_s:
            metrics.LIMITED.labels("slow_client").inc()
            client.close(CloseCode.TRY_AGAIN_LATER, "too slow")
            return False
        if session.retiring and now > client.retire_at + self._heartbeat_s:
            client.close(CloseCode.GOING_AWAY, "connected for long enough")
            return False
        if left < self._expiry_notice_s and not session.expiry_announced:
            session.tell_expiry()
        if now > client.retire_at and not session.retiring:
            session.retiring = True
            session.send(Reconnect(random.randint(0, _AFTER_MS_MAX), "connected for long enough"))
        return True


def _drop(client: Connection) -> None:
    if client.session is not None:
        client.session.close()
    client.abort()


def _abort(client: Connection) -> None:
    client.abort()
