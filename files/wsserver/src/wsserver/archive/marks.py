# SPDX-License-Identifier: MIT
"""How far Postgres has seen the archive's streams: evidence that Redis came back older than before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsserver.archive.postgres import Postgres
from wsserver.storage.redis.archive_stream import Head

_NOTE = """
    INSERT INTO archive_marks (process, shard, ms, number)
    SELECT * FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[])
    ON CONFLICT (process, shard) DO UPDATE SET ms = excluded.ms, number = excluded.number
    WHERE (excluded.ms, excluded.number) > (archive_marks.ms, archive_marks.number)
"""
_NEWEST = """
    SELECT DISTINCT ON (shard) shard, ms, number FROM archive_marks WHERE process <> $1
    ORDER BY shard, ms DESC, number DESC
"""


async def note(connection: Any, heads: Mapping[int, Head]) -> None:
    """Remember the last entry of each head."""
    # All workers write in the same order, so that no two of them deadlock.
    rows = [
        (head.process, shard, *map(int, head.entries[-1].id.split("-")))
        for shard, head in sorted(heads.items())
        if head.entries and head.process
    ]
    if rows:
        await connection.execute(_NOTE, *map(list, zip(*rows, strict=True)))


class ArchiveMarks:
    """Implements the port `Witness` of the Redis broker."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def newest(self, except_process: str) -> dict[int, str]:
        async with self._postgres.connection() as connection:
            marks = await connection.fetch(_NEWEST, except_process)
        return {shard: f"{ms}-{number}" for shard, ms, number in marks}
