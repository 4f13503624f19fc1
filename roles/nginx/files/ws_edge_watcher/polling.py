# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Polls all workers at once, with one GET /readyz each."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Collection, Iterable
from enum import Enum

TIMEOUT_S = 0.7


class Outcome(Enum):
    """The outcome of one request to one worker."""

    READY = "ready"
    NOT_READY = "not_ready"
    REFUSED = "refused"
    MUTE = "mute"
    """The worker accepted the connection and did not answer. Its watchdog ends such a worker."""
    SILENT = "silent"
    """The connection was neither accepted nor refused."""


class Answer(Enum):
    """The outcome of the requests to all workers of a host."""

    READY = "ready"
    ALIVE = "alive"
    SILENT = "silent"


def of_host(outcomes: Iterable[Outcome]) -> Answer:
    """Summarize a host's outcomes. The host is silent only if all its workers are silent."""
    seen = set(outcomes)
    if seen == {Outcome.SILENT}:
        return Answer.SILENT
    return Answer.READY if Outcome.READY in seen else Answer.ALIVE


async def ask_all(addresses: Collection[str]) -> dict[str, Outcome]:
    """Return the outcome by address (HOST:PORT), within TIMEOUT_S."""
    return dict(zip(addresses, await asyncio.gather(*map(_ask, addresses)), strict=True))


async def _ask(address: str) -> Outcome:
    outcome = Outcome.SILENT
    writer = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            host, _colon, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            outcome = Outcome.MUTE
            writer.write(f"GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            status = (await reader.readline()).split(b" ")[1:2]
            outcome = Outcome.READY if status == [b"200"] else Outcome.NOT_READY
    except TimeoutError:
        pass
    except OSError as error:
        # A dead neighbour now and then causes EHOSTUNREACH, between two ARP requests.
        outcome = outcome if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH) else Outcome.REFUSED
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.transport.abort()
    return outcome
