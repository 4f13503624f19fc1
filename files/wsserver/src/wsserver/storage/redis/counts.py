# SPDX-License-Identifier: MIT
"""Counters shared by all workers, in Redis. See scripts/leased_counts.lua."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoScriptError

from wsserver.cluster.leased_counts import CHUNK, LEASE_S, Lease, Renewal, Update, Updated
from wsserver.storage.redis.connection import RedisAddress, reading, script
from wsserver.storage.redis.keys import prefix


class RedisCounts:
    """Has one connection, with one pipeline at a time, so that a worker's updates arrive in order."""

    name = "connections"
    shards = 1
    hooks: tuple[str, ...] = ()

    def __init__(self, address: RedisAddress, lease_s: float = LEASE_S) -> None:
        self.lease_s = lease_s
        self._lease_ms = round(lease_s * 1000)
        self._redis = address.client(connections=1)
        self._renew = self._script("tally_renew.lua")
        self._update = self._script("tally_update.lua")
        self._reap = self._script("tally_reap.lua")
        self._release = self._script("tally_release.lua")

    def _script(self, action: str) -> Any:
        return self._redis.register_script(script("leased_counts.lua", *self.hooks, action, flags="allow-oom"))

    def key(self, shard: int, part: str) -> str:
        return f"{prefix(shard)}:{self.name}:{part}"

    def _keys(self, shard: int, worker: str) -> list[str]:
        return [self.key(shard, "leases"), self.key(shard, "totals"), self.key(shard, f"share:{worker}")]

    def _live(self, shard: int) -> str:
        return ""

    async def renew(self, leases: list[Lease]) -> list[Renewal | None]:
        replies = await self._run(
            self._renew, [(lease, lease.worker, [lease.stamp, self._lease_ms]) for lease in leases]
        )
        return [
            Renewal(reply[0], reply[1], [worker.decode() for worker in reply[2:]]) if reply else None
            for reply in replies
        ]

    async def update(self, updates: list[Update]) -> list[Updated | None]:
        calls = [(update.lease, update.lease.worker, self._changes(update)) for update in updates]
        replies = await self._run(self._update, calls)
        return [Updated(reply[0], reply[1:]) if reply else None for reply in replies]

    def _changes(self, update: Update) -> list[Any]:
        changes = [part for change in update.changes.items() for part in change]
        claims = [part for claim in update.claims for limited in claim for part in limited]
        return [update.lease.stamp, self._lease_ms, len(update.changes), *changes, *claims]

    async def reap(self, reapers: list[Lease], dead: list[str], pause_s: float) -> list[int]:
        arguments = [self._lease_ms, round(pause_s * 1000)]
        calls = [(reaper, worker, [*arguments, worker, CHUNK]) for reaper, worker in zip(reapers, dead, strict=True)]
        return await self._run(self._reap, calls)

    async def release(self, leases: list[Lease], grace_s: float) -> None:
        await self._run(self._release, [(lease, lease.worker, [round(grace_s * 1000)]) for lease in leases])

    async def _run(self, action: Any, calls: list[tuple[Lease, str, list[Any]]]) -> list[Any]:
        """The script's reply to each call: (calling lease, worker of the share, arguments after the
        worker).
        """
        async with reading():
            try:
                return await self._pipeline(action, calls)
            except NoScriptError:
                await self._redis.script_load(action.script)
                return await self._pipeline(action, calls)

    async def _pipeline(self, action: Any, calls: list[tuple[Lease, str, list[Any]]]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for lease, worker, arguments in calls:
            keys = self._keys(lease.shard, worker)
            pipeline.evalsha(action.sha, len(keys), *keys, self._live(lease.shard), lease.worker, *arguments)
        replies: list[Any] = await pipeline.execute()
        return replies

    async def close(self) -> None:
        await self._redis.aclose()
