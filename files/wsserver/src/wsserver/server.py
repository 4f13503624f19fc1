# SPDX-License-Identifier: MIT
"""Puts the parts together and sees a worker through its life: starting, ready, draining, gone."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address

from websockets.http11 import Request, Response

from wsserver import __version__, http, systemd
from wsserver.auth import Authenticator, Identity, Refused
from wsserver.broker import Broker
from wsserver.connection import Connection
from wsserver.drain import drain
from wsserver.hub import Hub
from wsserver.messages import JsonCodec
from wsserver.outbox import Outbox
from wsserver.session import Session
from wsserver.settings import Settings
from wsserver.sweep import Sweep
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log
from wsserver.turnstile import Turnstile

_SWEEP_INTERVAL_S = 1.0
_HEADS_INTERVAL_S = 5.0
# The kernel lowers this to net.core.somaxconn; asyncio's own default of 100 would make that setting useless.
_BACKLOG = 65535


class Server:
    """One worker. `page`: the page that `ws-server dev` serves at `/`."""

    def __init__(self, settings: Settings, broker: Broker, page: bytes | None = None) -> None:
        self._settings = settings
        self._broker = broker
        self._page = page
        self._outbox = Outbox()
        self._hub = Hub(broker, self._outbox)
        self._codec = JsonCodec()
        secret = settings.jwt_secret
        self._authenticator = Authenticator(
            settings.jwt_secret.get_secret_value() if settings.jwt_secret else "", settings.allowed_origins
        )
        self._sweep = Sweep(settings.heartbeat_s, settings.slow_client_s)
        self._turnstile = Turnstile()
        self._draining = False
        metrics.READY.set_function(lambda: float(self.ready))

    @property
    def ready(self) -> bool:
        return self._broker.available and not self._draining

    # Life.

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises OSError if the address cannot be listened on."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        # Accepting begins before the worker is ready, and is answered 503: whoever balances the load prefers
        # an empty worker, and a queue that nobody serves would swallow its clients.
        listener = await loop.create_server(self._connection, sock=self._listen(), backlog=_BACKLOG)
        log.info("listening", address=str(self._settings.listen_address), port=self._settings.port)
        # What start-up made lives as long as the process; keep it out of every later collection.
        gc.collect()
        gc.freeze()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(work)
                for work in (self._broker.run(self._hub), self._sweep_often(), self._check_heads())
            ]
            ready = tasks.create_task(self._tell_when_ready())
            await stop.wait()
            ready.cancel()
            await self._drain()
            for task in background:
                task.cancel()
        listener.close()
        log.info("stopped")

    def _listen(self) -> socket.socket:
        address, port = self._settings.listen_address, self._settings.port
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((str(address), port))
        except OSError as exc:
            listening.close()
            raise OSError(exc.errno, f"cannot listen: {os.strerror(exc.errno or 0)}", f"{address} port {port}") from exc
        return listening

    async def _tell_when_ready(self) -> None:
        while not self.ready:  # noqa: ASYNC110 - readiness has two sources, and start-up is short
            await asyncio.sleep(0.02)
        log.info("ready")
        systemd.notify(f"READY=1\nSTATUS=serving, version {__version__}")

    async def _drain(self) -> None:
        self._draining = True
        systemd.notify("STOPPING=1\nSTATUS=draining")
        log.info("draining", connections=len(self._sweep.open_connections))
        await drain(self._sweep, self._settings.drain_window_s)

    async def _sweep_often(self) -> None:
        while True:
            self._sweep.tick()
            # From the event loop itself: a loop that hangs is a worker that systemd replaces.
            systemd.notify("WATCHDOG=1")
            await asyncio.sleep(_SWEEP_INTERVAL_S)

    async def _check_heads(self) -> None:
        while True:
            await asyncio.sleep(_HEADS_INTERVAL_S)
            if self._broker.available:
                await self._hub.check()

    # Connections.

    def _connection(self) -> Connection:
        return Connection(self, self._settings.max_message_bytes)

    def opened(self, connection: Connection) -> None:
        connection.transport.set_write_buffer_limits(high=self._settings.send_buffer_bytes)
        self._sweep.opened(connection)

    def requested(self, connection: Connection, request: Request) -> None:
        if _path(request) == "/ws":
            self._turnstile.enter(partial(connection.answer, request))
        else:
            connection.answer(request)

    def respond(self, connection: Connection, request: Request) -> Response:
        path = _path(request)
        connection.remote = _client_address(connection, request)
        if path == "/ws":
            return self._upgrade(connection, request)
        if request.method != "GET":
            return http.text(HTTPStatus.METHOD_NOT_ALLOWED, "GET only", Allow="GET")
        if path == "/healthz":
            return http.text(HTTPStatus.OK, "ok")
        if path == "/readyz":
            return self._readiness()
        if path == "/metrics":
            return http.metrics_page()
        if path == "/events":
            return http.text(HTTPStatus.NOT_IMPLEMENTED, "server-sent events are not served yet; use /ws")
        if path == "/" and self._page is not None:
            return http.html(self._page)
        return http.text(HTTPStatus.NOT_FOUND, "not found")

    def _readiness(self) -> Response:
        if self.ready:
            return http.text(HTTPStatus.OK, "ready")
        why = "draining" if self._draining else "the broker is unavailable"
        return http.text(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {why}", Retry_After="1")

    def _upgrade(self, connection: Connection, request: Request) -> Response:
        # 503 means "not ready" and nothing else: the edge passes the client on to another worker.
        if not self.ready:
            return self._refuse(connection, self._readiness(), "not ready")
        response = connection.wire.accept(request)
        if response.status_code != 101:
            return self._refuse(connection, response, "not a WebSocket handshake")
        try:
            identity = self._authenticator.authenticate(request.headers)
        except Refused as refused:
            status = HTTPStatus(refused.status)
            headers = {"WWW_Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
            return self._refuse(connection, http.text(status, str(refused), **headers), str(refused))
        self._admit(connection, identity)
        return response

    def _refuse(self, connection: Connection, response: Response, why: str) -> Response:
        metrics.HANDSHAKES_REFUSED.labels(response.status_code).inc()
        log.info("refused", status=response.status_code, why=why, ip=connection.remote)
        return response

    def _admit(self, connection: Connection, identity: Identity) -> None:
        connection.session = Session(identity, self._codec, connection, self._hub, self._broker, self._outbox)

    def connected(self, connection: Connection) -> None:
        self._sweep.connected(connection)
        metrics.ACTIVE_CONNECTIONS.inc()
        if connection.session is not None:
            log.info("connect", **_who(connection, connection.session))
            connection.session.welcome(self._settings.heartbeat_s, self._settings.max_message_bytes)

    def closing(self, connection: Connection) -> None:
        self._sweep.closing(connection)

    def lost(self, connection: Connection) -> None:
        self._sweep.lost(connection)
        if connection.session is None:
            return
        metrics.ACTIVE_CONNECTIONS.dec()
        # The code that ended the connection: the client's own, or the one that it was sent first.
        close = connection.wire.close_sent or connection.wire.close_rcvd
        log.info(
            "disconnect",
            **_who(connection, connection.session),
            code=close.code if close else 1006,
            reason=close.reason if close else "",
            duration_s=round(asyncio.get_running_loop().time() - connection.opened_at, 3),
            messages_in=connection.session.messages_in,
        )


def _who(connection: Connection, session: Session) -> dict[str, str]:
    return {"connection": connection.wire.id.hex, "user": session.identity.user, "ip": connection.remote}


def _path(request: Request) -> str:
    return request.path.partition("?")[0]


def _client_address(connection: Connection, request: Request) -> str:
    """The client's address as the edge names it; without an edge, the peer's."""
    try:
        return str(ip_address(request.headers["X-Real-IP"]))
    except (LookupError, ValueError):
        peer = connection.transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""
