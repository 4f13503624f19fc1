# SPDX-License-Identifier: MIT
"""The HTTP server of the API: its routes, its access checks and its request log."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from http import HTTPStatus
from ipaddress import ip_address

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractAccessLogger, AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from msgspec import Raw, Struct

from wsserver.api import Operations, bodies
from wsserver.api.bodies import DisconnectBody, HistoryQuery, PresenceQuery, TicketBody
from wsserver.api.problem import Problem, answer, bad_request, from_broker, too_large
from wsserver.api.publishing import Publishing
from wsserver.auth import TICKET_TTL_S
from wsserver.cluster import control_messages
from wsserver.cluster.control_messages import Disconnect
from wsserver.errors import BrokerError
from wsserver.protocol.events import HistoryMessage, PresenceMember
from wsserver.protocol.types import Message
from wsserver.runtime import sockets
from wsserver.settings import Settings
from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# The most that a body may have beside the data, also with every character escaped.
_BODY_BYTES = 65536
_BATCH_BODY_BYTES = 10 * 2**20
_IDLE_S = 60
# How long to read what a client still sends after its answer, such as the rest of a body that was
# too large.
_LINGER_S = 2
# A publish has an answer within this time (or its outcome is unknown).
_FINISH_S = 8
# How long the connections may take to close afterwards. (aiohttp waits for half of it twice.)
_CLOSE_S = 2
_STATUS_ROUTE = "/v1/stats"

_ROUTE = web.RequestKey("route", str)
_TRACE = web.RequestKey("trace", dict[str, str])


class PresenceAnswer(Struct, frozen=True):
    """`count`: the users in the room. `more`: whether more users follow this page."""

    members: list[PresenceMember]
    count: int
    more: bool


class HistoryAnswer(Struct, frozen=True):
    messages: list[HistoryMessage]
    more: bool


class Api:
    """Serves the API at its own address. A worker without `settings.api_key` has no API."""

    def __init__(self, settings: Settings, operations: Operations) -> None:
        assert settings.api_key is not None
        self._settings = settings
        self._key = settings.api_key.get_secret_value().encode()
        self._operations = operations
        self._publishing = Publishing(operations, settings.max_message_bytes)
        self._one_body_bytes = settings.max_message_bytes + _BODY_BYTES
        self._running = 0
        self._finished = asyncio.Event()
        self._finish_by: float | None = None
        self.router = web.UrlDispatcher()
        self.router.add_routes(
            [
                web.post("/v1/publish", self._publish),
                web.post("/v1/publish/batch", self._publish_batch),
                web.get("/v1/rooms/{room:[^/]+}/presence", self._presence, allow_head=False),
                web.get("/v1/rooms/{room:[^/]+}/history", self._history, allow_head=False),
                web.post("/v1/users/{user:[^/]+}/disconnect", self._disconnect),
                web.post("/v1/tickets", self._ticket),
                web.get(_STATUS_ROUTE, self._stats, allow_head=False),
            ]
        )
        self._runner: web.ServerRunner | None = None

    # Life cycle.

    async def start(self) -> None:
        """Raises OSError if an address cannot be listened on."""
        addresses, port = self._settings.api_listen_address, self._settings.api_port
        bound = sockets.bind_all(addresses, port)
        # Without a `web.Application`, which answers an `Expect` header itself: before the access
        # checks, and with 500 if the value is not UTF-8 or the client is gone.
        server = web.Server(
            self._serve,
            request_factory=_request,
            access_log_class=_RequestLog,
            logger=_redacted_logger(),
            keepalive_timeout=_IDLE_S,
            lingering_time=_LINGER_S,
            auto_decompress=False,  # a small body must not expand to a large one
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_CLOSE_S / 2)
        await self._runner.setup()
        for listener in bound:
            await web.SockSite(self._runner, listener).start()
        log.info("api_listening", address=sockets.words(addresses), port=port)

    async def finish(self) -> None:
        """Wait until no request runs, for at most _FINISH_S from the first call on.

        Call while the worker drains: new requests are refused then.
        """
        loop = asyncio.get_running_loop()
        if self._finish_by is None:
            self._finish_by = loop.time() + _FINISH_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._finish_by):
                while self._running:
                    self._finished.clear()
                    await self._finished.wait()

    async def stop(self) -> None:
        """Refuse new requests, and finish running requests within seconds."""
        if self._runner is None:
            return
        for site in list(self._runner.sites):
            await site.stop()
        await self.finish()
        await self._runner.cleanup()

    # Every request.

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        found = await self.router.resolve(request)
        resource = found.route.resource
        route = "none" if resource is None else resource.canonical
        request[_ROUTE] = route
        request[_TRACE] = bodies.trace(request)
        self._running += 1
        try:
            self._check_client(request)
            self._authorize(request)
            self._check_expectation(request)
            if route not in ("none", _STATUS_ROUTE):
                self._check_ready()
            return await found.handler(request)
        except Problem as problem:
            return problem.response()
        except BrokerError as exc:
            return from_broker(exc).response()
        except web.HTTPMethodNotAllowed as exc:
            allowed = exc.headers[hdrs.ALLOW]
            why = f"{allowed} only"
            return Problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", why, {"Allow": allowed}).response()
        except web.HTTPNotFound:
            return Problem(HTTPStatus.NOT_FOUND, "not_found", "there is no such path").response()
        except Exception:
            log.exception("api_failed", route=route, **request[_TRACE])
            why = "a fault of the server; it is in its log"
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", why).response()
        finally:
            self._running -= 1
            self._finished.set()

    def _check_client(self, request: web.Request) -> None:
        # A client that has reset its connection has no address.
        client = ip_address(request.remote) if request.remote else None
        if client is None or not (
            client.is_loopback or any(client in network for network in self._settings.api_clients)
        ):
            raise Problem(HTTPStatus.FORBIDDEN, "forbidden", "the API is not for this address (WS_API_CLIENTS)")

    def _authorize(self, request: web.Request) -> None:
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _space, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        fits = hmac.compare_digest(key.encode(errors="surrogateescape"), self._key)
        if scheme.lower() != "bearer" or not fits:
            headers = {"WWW-Authenticate": "Bearer"}
            raise Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", "send Authorization: Bearer KEY", headers)

    def _check_expectation(self, request: web.Request) -> None:
        if _expects(request) not in ("", "100-continue"):
            raise Problem(HTTPStatus.EXPECTATION_FAILED, "expectation_failed", "Expect: 100-continue only")

    def _check_ready(self) -> None:
        # A draining worker sends its clients away, but serves backends until it exits.
        if self._operations.state in ("starting", "broker_unavailable"):
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "the broker is unavailable")

    async def _body(self, request: web.Request, limit: int = _BODY_BYTES) -> bytes:
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            why = "Content-Encoding: send the body as it is"
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", why)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.handshake_s):
                if _expects(request):
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0
                while len(body) <= limit and (chunk := await request.content.readany()):
                    body += chunk
        except TimeoutError:
            why = f"the body took longer than {self._settings.handshake_s:g} seconds"
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "timeout", why) from None
        except ConnectionError:
            raise bad_request("the connection ended within the body") from None
        if len(body) > limit:
            raise too_large(f"the body: at most {limit} bytes")
        return bytes(body)

    # The routes.

    async def _publish(self, request: web.Request) -> web.Response:
        return answer(await self._publishing.one(request, await self._body(request, self._one_body_bytes)))

    async def _publish_batch(self, request: web.Request) -> web.Response:
        return answer(await self._publishing.batch(request, await self._body(request, _BATCH_BODY_BYTES)))

    async def _presence(self, request: web.Request) -> web.Response:
        room = bodies.check_room(bodies.named(request), "the room in the path")
        wanted = bodies.query(request, PresenceQuery)
        page = await self._operations.presence(room, wanted.after, wanted.limit)
        return answer(PresenceAnswer(page.members, page.count, page.more))

    async def _history(self, request: web.Request) -> web.Response:
        room = bodies.check_room(bodies.named(request), "the room in the path")
        wanted = bodies.query(request, HistoryQuery)
        before, since = bodies.position(wanted.before, "before"), bodies.position(wanted.since, "since")
        if before is not None and since is not None:
            raise bad_request("before, since: one of them at most")
        messages, more = await self._operations.history(room, before, since, wanted.limit)
        return answer(HistoryAnswer([_history_message(message) for message in messages], more))

    async def _disconnect(self, request: web.Request) -> web.Response:
        user = bodies.check_user(bodies.named(request), "the user in the path")
        wanted = bodies.check_close(bodies.decode(await self._body(request) or b"{}", DisconnectBody))
        await self._operations.publish_control(control_messages.encode(Disconnect(user, wanted.reason, wanted.code)))
        return answer({"user": user}, HTTPStatus.ACCEPTED)

    async def _ticket(self, request: web.Request) -> web.Response:
        wanted = bodies.decode(await self._body(request), TicketBody)
        user = bodies.check_user(wanted.user, "user")
        join = bodies.check_patterns(wanted.join, "join")
        publish = bodies.check_patterns(wanted.publish, "publish")
        ticket = await self._operations.issue_ticket(user, join, publish, wanted.expires_s)
        return answer({"ticket": ticket, "expires_in_s": TICKET_TTL_S})

    async def _stats(self, _request: web.Request) -> web.Response:
        return answer(self._operations.status())


def _history_message(message: Message) -> HistoryMessage:
    epoch, seq = message.position
    return HistoryMessage(str(epoch), seq, message.user, message.ts, Raw(message.data))


def _expects(request: web.Request) -> str:
    """What the client waits for before it sends the body."""
    return ", ".join(request.headers.getall(hdrs.EXPECT, [])).lower()


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.Request:
    return web.Request(message, payload, protocol, writer, task, asyncio.get_running_loop())


class _RequestLog(AbstractAccessLogger):
    """Logs one line per request, also for a request that is no HTTP; never its headers, query or
    body.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        route = request.get(_ROUTE, "none")
        metrics.API_REQUESTS.labels(route, response.status).inc()
        log.info(
            "api_request",
            method=request.method,
            route=route,
            status=response.status,
            ip=request.remote,
            duration_s=round(time, 4),
            **request.get(_TRACE, {}),
        )


class _RedactedErrors(logging.Handler):
    """Logs aiohttp's errors without the texts of exceptions, which quote headers, and so the key."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        log.warning("api_complaint", complaint=record.getMessage(), error=error)


def _redacted_logger() -> logging.Logger:
    logger = logging.Logger("wsserver.api", logging.WARNING)  # outside the tree of loggers
    logger.addHandler(_RedactedErrors())
    return logger
