# SPDX-License-Identifier: MIT
"""One-time tickets: a backend requests a ticket for a user, and the user's client spends it in a
URL.

URLs end up in logs and histories, where a token must not be. A ticket in a log has been used
already.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from wsserver.auth import claims
from wsserver.auth.claims import Defaults
from wsserver.auth.identity import Identity, Refused
from wsserver.errors import BrokerUnavailable

# From issue to use.
TICKET_TTL_S = 30
_CONNECTION_S = 3600
# A worker asks again for this long whether it has used up a ticket. The client waits meanwhile.
_SPEND_S = 5.0
_SPEND_RETRY_S = 0.2


class TicketStore(Protocol):
    """All methods raise BrokerUnavailable while the store is unavailable."""

    async def issue(self, grant: bytes, ttl_s: int) -> str:
        """A random ticket for `grant`, valid for `ttl_s` seconds."""

    async def look_up(self, ticket: str) -> bytes | None:
        """The grant of the ticket, which stays valid; None if it was used, has expired or is
        unknown.
        """

    async def take(self, ticket: str, taker: str) -> bool:
        """Use up the ticket. Returns whether it was valid.

        A repeat by the same `taker` within seconds has the same result: a call that raises
        BrokerUnavailable may have used up the ticket.
        """


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


async def look_up(tickets: TicketStore, ticket: str, defaults: Defaults) -> Identity:
    """The identity that the ticket grants, until `spend`. Raises Refused, BrokerUnavailable."""
    grant = await tickets.look_up(ticket)
    if grant is None:
        raise _used()
    try:
        return claims.identity_of(msgspec.json.decode(grant, type=dict[str, Any]), defaults)
    except ValueError as exc:  # from another release
        raise Refused(401, f"the ticket is not valid: {exc}", "bad_ticket") from None


async def spend(tickets: TicketStore, ticket: str) -> None:
    """Use up the ticket. Raises Refused if another client was faster, BrokerUnavailable.

    If the connection to the store breaks meanwhile, the outcome is unknown, and an answer "try
    again" would lead to the refusal of a used ticket. So this worker asks again for a while.
    """
    loop = asyncio.get_running_loop()
    taker, deadline = secrets.token_hex(16), loop.time() + _SPEND_S
    while True:
        try:
            taken = await tickets.take(ticket, taker)
            break
        except BrokerUnavailable:
            if loop.time() >= deadline:
                raise
            await asyncio.sleep(_SPEND_RETRY_S)
    if not taken:
        raise _used()


def _used() -> Refused:
    return Refused(401, "the ticket is not valid: it is used already, too old, or none of ours", "bad_ticket")
