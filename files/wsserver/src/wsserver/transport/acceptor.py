# SPDX-License-Identifier: MIT
"""Handles each request: authenticates the client and starts a session, or answers with an error.

503 means "not ready" and nothing else: the edge passes the client on to another worker. A client
beyond a limit gets 429.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs

import msgspec
from prometheus_client import Gauge
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from wsserver.auth import CannotTell, Identity, Refused
from wsserver.errors import BrokerError
from wsserver.limits.addresses import Refusals
from wsserver.limits.descriptors import Descriptors
from wsserver.protocol.commands import Join
from wsserver.protocol.json_codec import JsonCodec
from wsserver.protocol.sse_codec import SseCodec, position_of
from wsserver.protocol.types import Room
from wsserver.runtime.pauses import Pauses
from wsserver.runtime.tasks import Tasks
from wsserver.runtime.turns import TurnQueue
from wsserver.sessions.context import SessionContext
from wsserver.sessions.session import Session
from wsserver.settings import Settings
from wsserver.status import NEARLY_FULL, BrokerStatus
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log
from wsserver.transport import responses
from wsserver.transport.connection import Connection
from wsserver.transport.registry import ConnectionRegistry
from wsserver.transport.sse import EventStream
from wsserver.transport.websocket import WebSocketConnection

_Admit = Callable[[WebSocketConnection, Request], Coroutine[Any, Any, None]]

_DOORS = ("/ws", "/events")
_HANDSHAKES_PER_TURN = 20
_RETRY_S = 1
# Connections that opened together must not retire together.
_AGE_JITTER = 0.1


class Acceptor:
    """Owns the connections of one worker from their first byte to their last.

    `unready`: the reason to refuse new clients now, or None. `broker`: the state of the broker.
    `pages`: other responses, by path. `pauses`: of this process.
    """

    def __init__(
        self,
        settings: Settings,
        context: SessionContext,
        registry: ConnectionRegistry,
        unready: Callable[[], str | None],
        broker: Callable[[], BrokerStatus],
        pages: dict[str, Response],
        pauses: Pauses,
    ) -> None:
        self._settings = settings
        self._context = context
        self._registry = registry
        self._unready = unready
        self._broker = broker
        self._pages = pages
        self._pauses = pauses
        pauses.then(self._stood_still)
        self._handshakes = TurnQueue(_HANDSHAKES_PER_TURN)
        self._refusals = Refusals(settings.ip_refusals_per_s)
        self._descriptors = Descriptors()
        self._tasks = Tasks()
        # The origins of the pages whose request for events is not answered yet.
        self._pages_waiting: dict[WebSocketConnection, str] = {}
        self._json = JsonCodec()
        self._sse = SseCodec()

    def connection(self) -> WebSocketConnection:
        """The protocol for a connection that was just accepted."""
        return WebSocketConnection(self, self._settings.max_message_bytes)

    def tick(self) -> None:
        """Call once a second."""
        self._refusals.tick()
        self._descriptors.tick()

    @property
    def descriptors_scarce(self) -> bool:
        """Whether new clients are refused, because the worker needs its last file descriptors."""
        return self._descriptors.scarce

    def _stood_still(self, seconds: float) -> None:
        metrics.PAUSES.inc()
        log.warning("stood_still", seconds=round(seconds, 1), dropped=self._registry.drop_all())

    # Owner of connections and event streams.

    def opened(self, connection: WebSocketConnection) -> None:
        if self._pauses.check() or not self._descriptors.for_request():
            connection.transport.abort()  # the edge tries the next worker
            return
        connection.transport.set_write_buffer_limits(high=self._settings.send_buffer_bytes)
        self._registry.opened(connection)

    def stale(self) -> bool:
        return self._pauses.check()

    def requested(self, connection: WebSocketConnection, request: Request) -> None:
        path = request.path.partition("?")[0]
        if request.method == "OPTIONS" and path == "/events":
            connection.answer(self._preflight(request))
            return
        client = path in ("/ws", "/events")
        if request.method == "HEAD" and not client:
            connection.answer(responses.head(self._page(path, ",".join(request.headers.get_all("Accept")))))
            return
        if request.method != "GET":
            allowed = "GET" if client else "GET, HEAD"
            connection.answer(responses.text(HTTPStatus.METHOD_NOT_ALLOWED, f"{allowed} only", Allow=allowed))
            return
        connection.remote = _client_address(connection, request)
        if path in _DOORS and self._refusals.exceeded(connection.remote):
            text = "too many requests of this address were refused"
            response = responses.text(HTTPStatus.TOO_MANY_REQUESTS, text, Retry_After=str(_RETRY_S))
            self._refuse_unchecked(connection, request, response)
        elif path in _DOORS and not self._descriptors.for_client():
            # 503, not 429: the edge prefers the worker with the fewest clients, and must pass this
            # client on.
            self._refuse_unchecked(connection, request, _not_ready("no file descriptor is free for new clients"))
        elif path == "/ws":
            self._handshakes.enter(partial(self._let_in, connection, request, self._websocket))
        elif path == "/events":
            self._handshakes.enter(partial(self._let_in, connection, request, self._events))
        else:
            connection.answer(self._page(path, ",".join(request.headers.get_all("Accept"))))

    def schedule(self, client: Connection) -> None:
        self._registry.schedule(client)

    def throttled(self, connection: WebSocketConnection) -> None:
        self._registry.throttled(connection)

    def closing(self, client: Connection) -> None:
        self._registry.closing(client)

    def lost(self, client: Connection) -> None:
        self._registry.lost(client)
        if client.session is not None:
            self._context.departures.enter(partial(self._count_lost, client, client.session))

    def _count_lost(self, client: Connection, session: Session) -> None:
        _open(client).dec()
        self._context.quotas.released(session.identity.user, client.remote)
        code = client.close_code
        metrics.CLOSES.labels(code if 1000 <= code <= 1015 else "other").inc()
        log.info(
            "disconnect",
            **_client_fields(client, session),
            code=code,
            reason=client.close_reason,
            duration_s=round(time.monotonic() - client.opened_at, 3),
            messages_in=session.messages_in,
        )

    # Plain answers.

    def _page(self, path: str, accept: str) -> Response:
        if path == "/healthz":
            return responses.text(HTTPStatus.OK, "ok")
        if path == "/readyz":
            why = self._unready()
            return _not_ready(why) if why is not None else responses.text(HTTPStatus.OK, self._ready())
        if path == "/metrics":
            return responses.metrics_page(accept)
        return self._pages.get(path) or responses.text(HTTPStatus.NOT_FOUND, "not found")

    def _ready(self) -> str:
        """The text of a worker that is ready, with what the operator should know."""
        notes = []
        if self._descriptors.scarce:
            notes.append("no file descriptor is free for new clients")
        broker = self._broker()
        if broker.disk_full:
            notes.append("the broker cannot write to its disk")
        if broker.fullness >= NEARLY_FULL:
            notes.append(f"the broker's memory is {broker.fullness:.0%} full")
        return ", but ".join(["ready", *notes[:1]]) + "".join(f", and {note}" for note in notes[1:])

    def _preflight(self, request: Request) -> Response:
        """The answer to a browser that asks before a page's `fetch` with Authorization."""
        origin = self._page_origin(request)
        if origin is None:
            return responses.text(HTTPStatus.FORBIDDEN, "this origin is not allowed")
        return responses.preflight(origin)

    def _page_origin(self, request: Request) -> str | None:
        """The origin of the page that sent the request, if its pages may connect."""
        origins = request.headers.get_all("Origin")
        return origins[0] if len(origins) == 1 and self._context.authenticator.allows(origins[0]) else None

    # Clients.

    def _let_in(self, connection: WebSocketConnection, request: Request, admit: _Admit) -> None:
        self._tasks.spawn(self._safely(connection, request, admit))

    async def _safely(self, connection: WebSocketConnection, request: Request, admit: _Admit) -> None:
        try:
            await admit(connection, request)
        except asyncio.CancelledError:
            # A timeout of a store's client library left a cancellation behind.
            connection.answer(_not_ready("the request was interrupted"))
        except Exception:
            # A programming error must not leave the client without an answer.
            log.exception("admission_failed")
            connection.answer(
                responses.text(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the server; it is in its log")
            )

    async def _websocket(self, connection: WebSocketConnection, request: Request) -> None:
        if not self._welcome(connection):
            return
        response = connection.protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._refuse(connection, response, "not a WebSocket handshake")
            return
        # Browsers hide the status of a handshake: a client that offers `bearer` gets the reason in
        # a close.
        opening = response if connection.protocol.subprotocol else None
        identity = await self._identify(connection, request, opening)
        if identity is None:
            return
        session = connection.session = Session(identity, self._json, connection, self._context)
        self._connected(connection)
        log.info("connect", **_client_fields(connection, session))
        session.welcome(self._settings.heartbeat_s, self._settings.max_message_bytes)
        connection.upgrade(response)

    async def _events(self, connection: WebSocketConnection, request: Request) -> None:
        origin = self._page_origin(request)
        if origin is not None:
            self._pages_waiting[connection] = origin
        try:
            await self._open_stream(connection, request)
        finally:
            self._pages_waiting.pop(connection, None)

    async def _open_stream(self, connection: WebSocketConnection, request: Request) -> None:
        if not self._welcome(connection):
            return
        try:
            join = _wanted_events(request)
        except ValueError as exc:
            self._refuse(connection, responses.text(HTTPStatus.BAD_REQUEST, str(exc)), str(exc))
            return
        identity = await self._identify(connection, request, room=join.room)
        if identity is None:
            return
        stream = EventStream(self, connection)
        session = stream.session = Session(identity, self._sse, stream, self._context)
        self._registry.lost(connection)
        self._connected(stream)
        log.info("connect", **_client_fields(stream, session), events=True)
        stream.start(request.headers.get("Origin"))
        session.carry_out(join)
        await session.until_idle()
        if not session.rooms:
            # The browser connects again, and joins again. On an open stream it would wait for ever.
            stream.close(CloseCode.TRY_AGAIN_LATER, "the room cannot be joined now")

    def _welcome(self, connection: WebSocketConnection) -> bool:
        """Whether new clients are accepted; if not, answers this one."""
        if connection.gone:
            return False
        if (why := self._unready()) is not None:
            self._refuse(connection, _not_ready(why), "not ready")
        return why is None

    async def _identify(
        self,
        connection: WebSocketConnection,
        request: Request,
        opening: Response | None = None,
        room: str | None = None,
    ) -> Identity | None:
        """The client's identity, counted against all quotas; None if the request was answered or
        the client is gone.

        `opening`: the answer 101, for a client that can read a refusal only from a close. `room`:
        the room that the client must be allowed to join.
        """
        if self._registry.open_count >= self._settings.max_connections:
            self._limit(connection, "connections", "this worker has too many connections")
            return None
        try:
            identity = await self._context.authenticator.authenticate(request)
            metrics.AUTH.labels("ok").inc()
            if room is not None and not identity.may_join(room):
                text = "the token does not let you join this room"
                self._refuse(connection, responses.text(HTTPStatus.FORBIDDEN, text), text)
                return None
            over = await self._context.quotas.admit(identity.user, connection.remote)
        except (Refused, CannotTell, BrokerError) as exc:
            self._turn_down(connection, exc, opening)
            return None
        if over is not None:
            self._limit(connection, over.limit, over.text)
            return None
        admitted = False
        try:
            if self._welcome(connection):  # the state may have changed meanwhile
                await self._context.authenticator.spend(request)
                admitted = not connection.gone
        except (Refused, BrokerError) as exc:
            self._turn_down(connection, exc, opening)
        finally:  # also after a fault of this program
            if not admitted:
                self._context.quotas.released(identity.user, connection.remote)
        return identity if admitted else None

    def _turn_down(
        self, connection: WebSocketConnection, why: Refused | CannotTell | BrokerError, opening: Response | None
    ) -> None:
        """Answer a request whose credential is refused, or cannot be checked now."""
        if not isinstance(why, BrokerError):
            metrics.AUTH.labels(why.outcome).inc()
        if not isinstance(why, Refused):
            self._refuse(connection, _not_ready(str(why)), "not ready")
            return
        status = HTTPStatus(why.status)
        headers = {"WWW_Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
        self._refuse(connection, responses.text(status, str(why), **headers), str(why), opening)

    def _limit(self, connection: WebSocketConnection, limit: str, text: str) -> None:
        metrics.LIMITED.labels(limit).inc()
        self._refuse(connection, responses.text(HTTPStatus.TOO_MANY_REQUESTS, text, Retry_After=str(_RETRY_S)), text)

    def _refuse(
        self, connection: WebSocketConnection, response: Response, why: str, opening: Response | None = None
    ) -> None:
        metrics.HANDSHAKES_REFUSED.labels(response.status_code).inc()
        log.info("refused", status=response.status_code, why=why, ip=connection.remote)
        if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:  # the worker's state, not the client
            self._refusals.count(connection.remote)
        if (origin := self._pages_waiting.get(connection)) is not None:
            responses.readable_by(response, origin)
        if opening is None:
            connection.answer(response)
        else:
            connection.turn_away(opening, why)

    def _refuse_unchecked(self, connection: WebSocketConnection, request: Request, response: Response) -> None:
        """As `_refuse`, without a line in the log."""
        metrics.HANDSHAKES_REFUSED.labels(response.status_code).inc()
        stream = request.path.partition("?")[0] == "/events"
        if stream and (origin := self._page_origin(request)) is not None:
            responses.readable_by(response, origin)
        connection.answer(response)

    def _connected(self, client: Connection) -> None:
        jitter = random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)
        client.retire_at = time.monotonic() + self._settings.max_connection_age_s * jitter
        self._registry.connected(client)
        _open(client).inc()


def _open(client: Connection) -> Gauge:
    return metrics.EVENT_STREAMS if isinstance(client, EventStream) else metrics.ACTIVE_CONNECTIONS


def _not_ready(why: str) -> Response:
    return responses.text(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {why}", Retry_After=str(_RETRY_S))


def _wanted_events(request: Request) -> Join:
    """The room and the position of `/events?room=R`. Raises ValueError."""
    query = parse_qs(request.path.partition("?")[2], keep_blank_values=True, max_num_fields=20)
    rooms = query.get("room", [])
    if len(rooms) != 1:
        raise ValueError("name one room: /events?room=R")
    last = [*filter(None, request.headers.get_all("Last-Event-ID"))] or query.get("last_event_id", [""])
    if len(last) != 1:
        raise ValueError("more than one Last-Event-ID")
    try:
        return Join(msgspec.convert(rooms[0], Room), position_of(last[0]), "members" in query)
    except msgspec.ValidationError:
        raise ValueError("the room or the Last-Event-ID is not valid") from None


def _client_fields(client: Connection, session: Session) -> dict[str, str]:
    return {"connection": client.id.hex, "user": session.identity.user, "ip": client.remote}


def _client_address(connection: WebSocketConnection, request: Request) -> str:
    """The client's address from the edge's header; without an edge, the peer's."""
    try:
        return str(ip_address(request.headers["X-Real-IP"]))
    except (LookupError, ValueError):
        peer = connection.transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""
