# SPDX-License-Identifier: MIT
"""The port to a room's past: all its messages that still exist, wherever they are kept."""

from __future__ import annotations

from typing import Protocol

from wsserver.protocol.types import Message, Position


class Past(Protocol):
    """One reader for the room's log and for the store that keeps what the log no longer has."""

    async def after(self, room: str, position: Position, limit: int) -> list[Message]:
        """Up to `limit` of the messages that follow `position`, in order, epoch by epoch; none only
        if none exists.

        A message that is missing from the result, before the last one, no longer exists. Raises
        ArchiveUnavailable if only that store can tell, else BrokerUnavailable.
        """
