# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""What the workers answer: one GET /readyz each, all of them at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Collection, Iterable
from enum import Enum

TIMEOUT_S = 0.7


class Outcome(Enum):
    """What one worker did with one request."""

    READY = "ready"
    NOT_READY = "not_ready"
    REFUSED = "refused"
    MUTE = "mute"
    """The connection was made, and no answer came. (Its own watchdog ends such a worker.)"""
    SILENT = "silent"
    """Not even the connection was made or refused."""


class Answer(Enum):
    """What a host did with the requests to all of its workers."""

    READY = "ready"
    ALIVE = "alive"
    SILENT = "silent"


def of_host(outcomes: Iterable[Outcome]) -> Answer:
    """A host is silent when all its workers are: where one port answers, packets arrive."""
    seen = set(outcomes)
    if seen == {Outcome.SILENT}:
        return Answer.SILENT
    return Answer.READY if Outcome.READY in seen else Answer.ALIVE


async def ask_all(addresses: Collection[str]) -> dict[str, Outcome]:
    """By address, HOST:PORT. Takes TIMEOUT_S at most."""
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
        # EHOSTUNREACH is what a dead neighbour looks like now and then, between two searches for it.
        outcome = outcome if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH) else Outcome.REFUSED
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.transport.abort()
    return outcome
