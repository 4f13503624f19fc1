# SPDX-License-Identifier: MIT
"""Connections to Redis, with the deadlines that all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, NamedTuple

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from wsserver.errors import BrokerUnavailable

# A burst of joins waits its turn; that says nothing about Redis.
_READ_WAIT_S = 15.0
# An unanswered command means that Redis is gone; this is far above a healthy Redis's pauses.
COMMAND_TIMEOUT_S = 3.0


class SoundConnection(AbstractConnection):
    """Never swallows a cancellation, and is made anew when it broke while it was idle.

    redis-py sends through `asyncio.wait_for`, which before Python 3.12 swallows one when the write is done at the same
    moment: a worker that is to stop would go on for good.

    Its pool looks whether an idle connection was closed, but not whether it broke, as it does when the network is away
    for long; uvloop then refuses the write with a RuntimeError.

    dedicated: what was said on it holds for this connection alone, so one that broke is an error.
    """

    dedicated = False

    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        if self._writer is not None and self._writer.is_closing():
            await self.disconnect(nowait=True)
            if self.dedicated:
                raise RedisConnectionError("the connection broke")
        task = asyncio.current_task()
        assert task is not None
        cancelled_before = task.cancelling()
        await super().send_packed_command(*arguments, **options)
        if task.cancelling() > cancelled_before:
            await self.disconnect(nowait=True)  # else its answer would be taken for that of the next command
            raise asyncio.CancelledError


class RedisAddress(NamedTuple):
    """Where Redis is (a URL without credentials), and who asks."""

    url: str
    username: str | None = None
    password: str | None = None

    def client(self, connections: int) -> Redis:
        """A client with at most so many connections; a command waits for a free one."""
        where: dict[str, Any] = dict(parse_url(self.url))
        kind = where.pop("connection_class", Connection)
        pool = BlockingConnectionPool(
            connection_class=type("SoundConnection", (SoundConnection, kind), {}),
            **{"username": self.username, "password": self.password, **where},
            max_connections=connections,
            timeout=_READ_WAIT_S,
            protocol=2,
            socket_timeout=COMMAND_TIMEOUT_S,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # what is to be done again, the caller decides
        )
        return Redis.from_pool(pool)


@asynccontextmanager
async def reading() -> AsyncIterator[None]:
    """Turns what may go wrong on the way to Redis into BrokerUnavailable."""
    try:
        yield
    except (RedisError, OSError) as exc:
        raise BrokerUnavailable("the broker is unavailable") from exc


def script(*names: str, flags: str | None = None) -> str:
    """The text of these files in `scripts/`, one after the other, under a line with Redis's `flags` for a script."""
    folder = resources.files("wsserver.storage.redis") / "scripts"
    head = f"#!lua flags={flags}\n" if flags else ""
    return head + "".join((folder / name).read_text() for name in names)
