# SPDX-License-Identifier: MIT
"""One worker process: puts its parts together, and runs them from start to drained exit."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from websockets.frames import CloseCode
from websockets.http11 import Response

from wsserver import __version__
from wsserver.admin.control_socket import ControlSocket
from wsserver.api.server import Api
from wsserver.auth import Authenticator, any_of
from wsserver.cluster import control_messages
from wsserver.limits.connection import ConnectionLimits, Rate
from wsserver.rooms.batch_writer import BatchWriter
from wsserver.rooms.hub import Hub
from wsserver.rooms.publisher import Publisher
from wsserver.runtime import garbage, sockets, systemd
from wsserver.runtime.tasks import lasting
from wsserver.sessions.context import SessionContext
from wsserver.settings import Settings
from wsserver.status import BrokerStatus, Counters, State, Status
from wsserver.telemetry import lag, metrics, snapshot
from wsserver.telemetry.logs import log, surviving
from wsserver.telemetry.tracing import Tracer
from wsserver.transport import drain
from wsserver.transport.acceptor import Acceptor
from wsserver.transport.drain import WorkerDrain
from wsserver.transport.registry import ConnectionRegistry
from wsserver.worker.api_operations import WorkerOperations
from wsserver.worker.components import Components

_TICK_S = 1.0
_HEADS_INTERVAL_S = 5.0
_POLL_S = 0.02
# The kernel lowers this to net.core.somaxconn; asyncio's own default of 100 would make that setting
# useless.
_BACKLOG = 65535


class Worker:
    """One worker. `pages`: what `ws-server dev` serves besides, by path."""

    def __init__(self, settings: Settings, components: Components, pages: dict[str, Response] | None = None) -> None:
        self._settings = settings
        self._components = components
        self._started_at = time.time()
        self._started = False
        self._tracer = make_tracer(settings)
        self._registry = ConnectionRegistry(settings.handshake_s, settings.heartbeat_s, settings.slow_client_s)
        self._drain = WorkerDrain(self._send_away)
        writer = BatchWriter()
        self._context = SessionContext(
            authenticator=Authenticator(settings, components.tickets),
            hub=Hub(components.broker, components.history, writer, self._tracer),
            writer=writer,
            publisher=Publisher(components.broker, components.archive, any_of(settings.durable_rooms), self._tracer),
            presence=components.presence,
            history=components.history,
            quotas=components.quotas,
            limits=ConnectionLimits(
                frames=Rate(settings.messages_per_s),
                bytes=Rate(settings.bytes_per_s),
                rooms=settings.max_rooms_per_connection,
            ),
        )
        self._acceptor = Acceptor(
            settings,
            self._context,
            self._registry,
            self._unready,
            lambda: self._broker_status,
            pages or {},
            components.pauses,
        )
        metrics.MAX_CONNECTIONS.set(settings.max_connections)
        metrics.READY.set_function(lambda: float(self.state == "ready"))
        metrics.DRAINING.set_function(lambda: float(self._drain.state is not None))
        metrics.ROOMS.set_function(lambda: float(self._context.hub.rooms))
        metrics.BROKER_MEMORY.set_function(lambda: components.broker.fullness)
        metrics.BROKER_DISK_FULL.set_function(lambda: float(components.broker.disk_full))
        metrics.BROKER_AVAILABLE.set_function(lambda: float(components.broker.available))

    # State.

    @property
    def state(self) -> State:
        drained = self._drain.state
        if drained is not None:
            return drained
        if self._available and self._context.authenticator.ready:
            return "ready"
        return "broker_unavailable" if self._started and not self._available else "starting"

    @property
    def _available(self) -> bool:
        return self._components.broker.available and self._components.quotas.available

    def _unready(self) -> str | None:
        match self.state:
            case "ready":
                return None
            case "starting" | "broker_unavailable" if not self._available and self._components.broker.disk_full:
                return "the broker cannot write to its disk"
            case "starting" | "broker_unavailable":
                return "the keys of tokens are not available" if self._available else "the broker is unavailable"
            case state:
                return state

    def status(self) -> Status:
        now = time.time()
        return Status(
            version=__version__,
            pid=os.getpid(),
            instance=self._settings.instance or str(self._settings.port),
            started_at=self._started_at,
            uptime_s=round(now - self._started_at, 3),
            state=self.state,
            drained_by=self._drain.by,
            connections=self._registry.open_count,
            handshaking=self._registry.handshaking_count,
            closing=self._registry.closing_count,
            rooms=self._context.hub.rooms,
            broker=self._broker_status,
            archive=self._components.archive_status,
            descriptors_scarce=self._acceptor.descriptors_scarce,
        )

    @property
    def _broker_status(self) -> BrokerStatus:
        broker = self._components.broker
        return BrokerStatus(broker.available, round(broker.fullness, 3), broker.disk_full)

    def counters(self) -> Counters:
        return snapshot.read()

    # Life cycle.

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises OSError if an address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        # The worker accepts before it is ready, and answers 503: a load balancer prefers an empty
        # worker, and a queue that no process serves would swallow its clients.
        addresses, port = self._settings.listen_address, self._settings.port
        listeners = [
            await loop.create_server(self._acceptor.connection, sock=bound, backlog=_BACKLOG)
            for bound in sockets.bind_all(addresses, port)
        ]
        log.info("listening", address=sockets.words(addresses), port=port)
        servers = self._other_servers()
        for server in servers:
            await server.start()
        garbage.freeze_survivors()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(lasting(work, stop))
                for work in (
                    self._components.broker.run(self._context.hub, self._carry_out),
                    *self._components.background(),
                    self._context.authenticator.run(),
                    self._tick_often(),
                    self._check_heads(),
                    lag.measure(),
                    garbage.collect_young(),
                )
            ]
            ready = tasks.create_task(self._tell_when_ready())
            await stop.wait()
            ready.cancel()
            systemd.notify("STOPPING=1\nSTATUS=draining")
            # The unit grants the sum of these deadlines: plugins/module_utils/_stopping.py.
            await asyncio.gather(
                self._drain.stop(), *(server.finish() for server in servers if isinstance(server, Api))
            )
            await asyncio.gather(*(server.stop() for server in servers))
            for task in background:
                task.cancel()
        await asyncio.gather(self._components.stop(), self._stop_tracer())
        for listener in listeners:
            listener.close()
        log.info("stopped")

    async def _stop_tracer(self) -> None:
        if self._tracer is not None:
            await self._tracer.stop()

    def _other_servers(self) -> list[Api | ControlSocket]:
        servers: list[Api | ControlSocket] = []
        if self._settings.api_key is not None:
            servers.append(Api(self._settings, WorkerOperations(self.status, self._context, self._components)))
        if self._settings.control_socket is not None:
            servers.append(ControlSocket(self._settings.control_socket, self))
        return servers

    async def _tell_when_ready(self) -> None:
        while not self._available:  # noqa: ASYNC110 - it has two sources, and start-up is short
            await asyncio.sleep(_POLL_S)
        self._started = True
        # Without the keys of tokens the worker is not ready for clients, but a restart would bring
        # no keys: for systemd it has started.
        await _notify("READY=1\nSTATUS=waiting for the keys of tokens")
        while self.state != "ready":  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        log.info("ready")
        await _notify(f"STATUS=serving, version {__version__}")

    async def _tick_often(self) -> None:
        while True:
            for work in (
                self._components.pauses.check,
                self._registry.tick,
                self._acceptor.tick,
                lambda: self._context.quotas.squeeze(self._components.broker.fullness),
            ):
                with surviving("tick"):
                    work()
            # The event loop itself sends this signal, so systemd replaces a worker whose loop
            # hangs.
            systemd.notify("WATCHDOG=1")
            await asyncio.sleep(_TICK_S)

    async def _check_heads(self) -> None:
        while True:
            await asyncio.sleep(_HEADS_INTERVAL_S)
            if self._components.broker.available:
                with surviving("check"):
                    await self._context.hub.check()

    # Requests: the operator's through the control socket, any worker's through the broker.

    def drain(self, by: str, window_s: float | None) -> asyncio.Task[None]:
        return self._drain.drain(by, window_s)

    def undrain(self, by: str, force: bool) -> None:
        self._drain.undrain(by, force)

    async def _send_away(self, window_s: float | None) -> None:
        log.info("draining", connections=self._registry.open_count)
        await drain.drain(self._registry, self._settings.drain_window_s if window_s is None else window_s)

    def kick(self, user: str | None, connection: str | None, reason: str) -> int:
        return self._disconnect(user, connection, CloseCode.POLICY_VIOLATION, reason)

    def _carry_out(self, payload: bytes) -> None:
        command = control_messages.decode(payload)
        if command is not None:
            self._disconnect(command.user, None, command.code, command.reason)

    def _disconnect(self, user: str | None, connection: str | None, code: int, reason: str) -> int:
        """Close the connections of a user, or the one with this id. Returns their number."""
        chosen = [] if user is None else self._registry.of_user(user)
        chosen += [] if connection is None else self._registry.by_id(connection)
        for client in chosen:
            client.close(code, reason)
        return len(chosen)


async def _notify(state: str) -> None:
    """Return when systemd has this state."""
    while not systemd.notify(state):  # noqa: ASYNC110 - systemd has room for it soon
        await asyncio.sleep(_POLL_S)


def make_tracer(settings: Settings) -> Tracer | None:
    """This worker's tracer, or None without an OTLP endpoint.

    Call once per process, after the logs are set up.
    """
    if settings.otlp_endpoint is None:
        return None
    from wsserver.telemetry.spans import OtlpTracer

    return OtlpTracer(settings.otlp_endpoint, settings.trace_ratio, settings.instance or str(settings.port))
