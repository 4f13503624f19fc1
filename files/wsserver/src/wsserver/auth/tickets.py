# SPDX-License-Identifier: MIT
"""One-time tickets: a backend requests a ticket for a user, and the user's client spends it in a
URL.

URLs end up in logs and histories, where a token must not be. A ticket in a log has been used
already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from wsserver.auth import claims
from wsserver.auth.claims import Defaults
from wsserver.auth.identity import Identity, Refused

# From issue to use.
TICKET_TTL_S = 30
_CONNECTION_S = 3600


class TicketStore(Protocol):
    """Both methods raise BrokerUnavailable while the store is unavailable."""

    async def issue(self, grant: bytes, ttl_s: int) -> str:
        """A random ticket for `grant`, valid for `ttl_s` seconds."""

    async def take(self, ticket: str) -> bytes | None:
        """The grant of the ticket, once; None if the ticket was used, has expired or is unknown."""


async def issue_ticket(
    tickets: TicketStore,
    user: str,
    join: Sequence[str] | None = None,
    publish: Sequence[str] | None = None,
    expires_s: int | None = None,
) -> str:
    """A ticket for one connection of `user`, which may last `expires_s` seconds (None: an hour).

    `join`, `publish`: patterns of rooms; None leaves them to the server's settings. Raises
    ValueError for a user or patterns that are not allowed, BrokerUnavailable.
    """
    grant = msgspec.json.encode(claims.make(user, expires_s or _CONNECTION_S, join, publish))
    return await tickets.issue(grant, TICKET_TTL_S)


async def redeem(tickets: TicketStore, ticket: str, defaults: Defaults) -> Identity:
    """The identity that the ticket grants. Raises Refused, BrokerUnavailable."""
    grant = await tickets.take(ticket)
    if grant is None:
        raise Refused(401, "the ticket is not valid: it is used already, too old, or none of ours", "bad_ticket")
    try:
        return claims.identity_of(msgspec.json.decode(grant, type=dict[str, Any]), defaults)
    except ValueError as exc:  # from another release
        raise Refused(401, f"the ticket is not valid: {exc}", "bad_ticket") from None
