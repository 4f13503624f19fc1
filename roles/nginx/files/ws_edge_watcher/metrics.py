# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Serves the watcher's state to Prometheus: GET /metrics.

The server of prometheus_client does not fit: it has no timeout and one thread for each connection,
and the unit allows few threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from _upstream import Server
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .journal import log
from .polling import Outcome


@dataclass
class Known:
    """The watcher's state, for its metrics. `last_poll` is a Unix time in seconds."""

    servers: list[Server] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    last_poll: float = 0.0
    reloads: int = 0
    failures: int = 0


class _Watcher(Collector):
    """Collects the watcher's metrics for one page."""

    def __init__(self, known: Known, lingering: int) -> None:
        self._known = known
        self._lingering = lingering

    def collect(self) -> Iterator[Metric]:
        known = self._known
        up = GaugeMetricFamily("ws_edge_server_up", "Whether nginx sends new clients to the server.", labels=["server"])
        down_by = GaugeMetricFamily(
            "ws_edge_server_down_by", "The owners of the server's mark.", labels=["server", "by"]
        )
        for server in known.servers:
            up.add_metric([server.address], not server.down_by)
            for name in server.down_by:
                down_by.add_metric([server.address, name], 1)
        answer = GaugeMetricFamily(
            "ws_edge_server_answer",
            "The server's answer to the last poll: 1 for that answer.",
            labels=["server", "answer"],
        )
        for address, outcome in known.outcomes.items():
            for each in Outcome:
                answer.add_metric([address, each.value], each is outcome)
        yield from (up, down_by, answer)
        yield CounterMetricFamily("ws_edge_reloads", "Reloads of nginx by the watcher.", known.reloads)
        yield CounterMetricFamily(
            "ws_edge_failures", "Changes of the upstream that failed; the log names the cause.", known.failures
        )
        yield GaugeMetricFamily(
            "ws_edge_nginx_lingering_processes",
            "Processes of earlier configurations that serve their last clients.",
            self._lingering,
        )
        yield GaugeMetricFamily(
            "ws_edge_last_poll_timestamp_seconds",
            "When the workers were last polled, in Unix time.",
            known.last_poll,
        )


def exposition(known: Known, lingering: int) -> bytes:
    """Return the page in Prometheus' text format.

    `lingering` counts the nginx processes of earlier configurations.
    """
    registry = CollectorRegistry()
    registry.register(_Watcher(known, lingering))
    return generate_latest(registry)


async def serve(page: Callable[[], bytes], host: str, port: int) -> asyncio.Server:
    """Answer each GET /metrics with the page, and close the connection. Raises OSError."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                found = head.startswith(b"GET /metrics ")
                body = page() if found else b"not found\n"
                writer.write(
                    f"HTTP/1.1 {'200 OK' if found else '404 Not Found'}\r\n"
                    f"Content-Type: {CONTENT_TYPE_LATEST if found else 'text/plain'}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, host, port)


async def serve_when_available(page: Callable[[], bytes], host: str, port: int, pause_s: float = 5) -> None:
    """Serve the page forever, at an address that the host may not have yet."""
    logged = False
    while True:
        try:
            server = await serve(page, host, port)
        except OSError as error:
            if not logged:
                log("metrics_wait", address=host, error=str(error))
            logged = True
            await asyncio.sleep(pause_s)
        else:
            await server.serve_forever()
