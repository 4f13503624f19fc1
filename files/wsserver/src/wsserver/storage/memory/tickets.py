# SPDX-License-Identifier: MIT
"""The tickets of one process, for `ws-server dev` and the memory broker."""

from __future__ import annotations

import secrets
import time


class MemoryTickets:
    def __init__(self) -> None:
        self._grants: dict[str, tuple[bytes, float]] = {}

    async def issue(self, grant: bytes, ttl_s: int) -> str:
        now = time.monotonic()
        self._grants = {ticket: kept for ticket, kept in self._grants.items() if now < kept[1]}
        ticket = secrets.token_urlsafe(32)
        self._grants[ticket] = (grant, now + ttl_s)
        return ticket

    async def look_up(self, ticket: str) -> bytes | None:
        grant, ends = self._grants.get(ticket, (None, 0.0))
        return grant if time.monotonic() < ends else None

    async def take(self, ticket: str, taker: str) -> bool:
        _grant, ends = self._grants.pop(ticket, (None, 0.0))
        return time.monotonic() < ends
