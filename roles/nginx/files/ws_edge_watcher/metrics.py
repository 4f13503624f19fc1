# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""What the watcher knows, as Prometheus reads it: GET /metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from _upstream import Server

from .journal import log
from .polling import Outcome


@dataclass
class Known:
    """`last_poll`: Unix time in seconds."""

    servers: list[Server] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    last_poll: float = 0.0
    reloads: int = 0
    failures: int = 0


def exposition(known: Known, lingering: int) -> str:
    """The text format of Prometheus. `lingering`: nginx processes of earlier configurations."""
    by = [((("server", server.address), ("by", name)), 1) for server in known.servers for name in server.down_by]
    return "".join(
        [
            _metric(
                "ws_edge_server_up",
                "gauge",
                "Whether nginx sends new clients to the server.",
                [((("server", server.address),), int(not server.down_by)) for server in known.servers],
            ),
            _metric("ws_edge_server_down_by", "gauge", "Who wants the server out.", by),
            _metric(
                "ws_edge_server_answer",
                "gauge",
                "What the server did with the last poll: 1 for that one.",
                [
                    ((("server", address), ("answer", one.value)), int(one is outcome))
                    for address, outcome in known.outcomes.items()
                    for one in Outcome
                ],
            ),
            _metric("ws_edge_reloads_total", "counter", "Reloads of nginx by the watcher.", [((), known.reloads)]),
            _metric(
                "ws_edge_failures_total",
                "counter",
                "Changes of the upstream that could not be made; the log says why.",
                [((), known.failures)],
            ),
            _metric(
                "ws_edge_nginx_lingering_processes",
                "gauge",
                "Processes of earlier configurations that serve their last clients.",
                [((), lingering)],
            ),
            _metric(
                "ws_edge_last_poll_timestamp_seconds",
                "gauge",
                "When the workers were last polled, in Unix time.",
                [((), known.last_poll)],
            ),
        ]
    )


def _metric(name: str, kind: str, text: str, samples: Iterable[tuple[tuple[tuple[str, str], ...], float]]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


async def serve(page: Callable[[], str], host: str, port: int) -> asyncio.Server:
    """Answer every GET with the page, and close. Raises OSError."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                found = head.startswith(b"GET /metrics ")
                body = (page() if found else "not found\n").encode()
                writer.write(
                    f"HTTP/1.1 {'200 OK' if found else '404 Not Found'}\r\n"
                    "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, host, port)


async def serve_once_it_is_there(page: Callable[[], str], host: str, port: int, pause_s: float = 5) -> None:
    """As `serve`, for good, at an address that the host may not have yet. Nobody waits for it."""
    told = False
    while True:
        try:
            server = await serve(page, host, port)
        except OSError as error:
            if not told:
                log("metrics_wait", address=host, error=str(error))
            told = True
            await asyncio.sleep(pause_s)
        else:
            await server.serve_forever()
