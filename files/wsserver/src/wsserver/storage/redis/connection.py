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
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from wsserver.errors import BrokerBusy, BrokerFull, BrokerUnavailable
from wsserver.telemetry import metrics

# A burst of joins waits for a free connection; that does not mean that Redis is slow.
_READ_WAIT_S = 15.0
# An unanswered command means that Redis is gone: a healthy Redis pauses for far less time.
COMMAND_TIMEOUT_S = 3.0


class SoundConnection(AbstractConnection):
    """Propagates cancellation, and reconnects if it broke while idle.

    redis-py sends through `asyncio.wait_for`, which before Python 3.12 swallows a cancellation when
    the write is done at the same moment: a worker that must stop would run on.

    The pool of redis-py notices an idle connection that was closed, but not one that broke, as in a
    long outage of the network. uvloop then refuses the write with a RuntimeError.

    `dedicated`: the connection has a state (subscriptions), so it must not reconnect silently: a
    break is an error.
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
            await self.disconnect(nowait=True)  # else the next command would read its answer
            raise asyncio.CancelledError


class PoolFull(RedisConnectionError):
    """A command waited for a free connection for too long. Redis is busy then, not down."""


class _Pool(BlockingConnectionPool):
    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().get_connection(*arguments, **options)  # type: ignore[no-untyped-call]
        except RedisConnectionError as exc:
            if not isinstance(exc.__cause__, TimeoutError):
                raise
            metrics.LIMITED.labels("broker_reads").inc()
            raise PoolFull(str(exc)) from exc


class RedisAddress(NamedTuple):
    """The address of Redis (a URL without credentials), and the credentials."""

    url: str
    username: str | None = None
    password: str | None = None

    def client(self, connections: int) -> Redis:
        """A client with at most `connections` connections; a command waits for a free one."""
        where: dict[str, Any] = dict(parse_url(self.url))
        kind = where.pop("connection_class", Connection)
        pool = _Pool(
            connection_class=type("SoundConnection", (SoundConnection, kind), {}),
            **{"username": self.username, "password": self.password, **where},
            max_connections=connections,
            timeout=_READ_WAIT_S,
            protocol=2,
            socket_timeout=COMMAND_TIMEOUT_S,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # the caller decides what to repeat
        )
        return Redis.from_pool(pool)


@asynccontextmanager
async def reading() -> AsyncIterator[None]:
    """Raises BrokerUnavailable, BrokerBusy or BrokerFull in place of the errors of a connection to
    Redis.
    """
    try:
        yield
    except PoolFull:
        raise BrokerBusy() from None
    except (RedisError, OSError) as exc:
        error = full(exc) or BrokerUnavailable()
        raise error from exc


def full(exc: BaseException) -> BrokerFull | None:
    """The error for what Redis says when its memory or disk is full."""
    if isinstance(exc, OutOfMemoryError):
        return BrokerFull("the broker is out of memory")
    if is_disk_full(exc):
        return BrokerFull("the broker cannot write to its disk")
    return None


def is_disk_full(exc: BaseException | None) -> bool:
    return isinstance(exc, ResponseError) and "MISCONF" in str(exc)


def script(*names: str, flags: str | None = None) -> str:
    """The text of these files in `scripts/`, joined, after a line with the `flags` that Redis has
    for scripts.
    """
    folder = resources.files("wsserver.storage.redis") / "scripts"
    head = f"#!lua flags={flags}\n" if flags else ""
    return head + "".join((folder / name).read_text() for name in names)
