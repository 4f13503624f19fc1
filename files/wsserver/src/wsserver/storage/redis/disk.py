# SPDX-License-Identifier: MIT
"""Whether Redis can write to its disk, from what a worker sees of Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from wsserver.storage.redis.connection import is_disk_full
from wsserver.telemetry.logs import log

# With "appendfsync always", a Redis that cannot write to its disk does not say so, but ends, and
# systemd starts the next one. So many that ended at a write, one after the other, are no accident.
_DEATHS_OF_A_FULL_DISK = 3
# A Redis that lives for so long can write.
_ALIVE_S = 5.0


class Disk:
    """`full`: Redis refuses writes, or ends at each, until space is free."""

    def __init__(self) -> None:
        self.full = False
        self._unanswered = 0  # writes
        self._deaths = 0  # processes of Redis that ended at a write, without a healthy one in between
        self._process = ""  # the run id of the Redis that this worker reached last
        self._alive_at = 0.0

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While a write waits for its answer."""
        self._unanswered += 1
        yield  # without a `finally`: after an exception, `ended` counts the write
        self._unanswered -= 1

    def reached(self, process: str) -> None:
        """The worker is connected to this process of Redis."""
        if process == self._process:
            self._deaths = 0  # only the connection had ended
        else:
            self._alive_at = time.monotonic() + _ALIVE_S
        self._process = process

    def ended(self, causes: list[Exception]) -> None:
        """The connection has ended, by these errors."""
        broke = any(isinstance(cause, RedisConnectionError | ConnectionError) for cause in causes)
        self._deaths += broke and self._unanswered > 0
        self._unanswered = 0
        if any(map(is_disk_full, causes)) or self._deaths >= _DEATHS_OF_A_FULL_DISK:
            self._found(True)

    async def measure(self, redis: Redis) -> None:
        """Ask a Redis that answers. Raises redis-py's errors."""
        if time.monotonic() >= self._alive_at:
            self._deaths = 0
        persistence: dict[str, Any] = await redis.info("persistence")
        failed = persistence["aof_last_write_status"] != "ok"
        self._found(failed or self._deaths >= _DEATHS_OF_A_FULL_DISK)

    def _found(self, full: bool) -> None:
        if full and not self.full:
            log.error("broker_disk_full", hint="publishes and joins of new rooms are refused until space is free")
        elif self.full and not full:
            log.info("broker_disk_has_room")
        self.full = full
