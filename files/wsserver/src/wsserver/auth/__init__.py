# SPDX-License-Identifier: MIT
"""Authentication and permissions: the token, ticket or cookie of a handshake, and the rooms that it
allows.
"""

from wsserver.auth.authenticator import BEARER_SUBPROTOCOL, Authenticator
from wsserver.auth.identity import CannotTell, Identity, Refused
from wsserver.auth.patterns import EVERYWHERE, Patterns, any_of, matches
from wsserver.auth.tickets import TICKET_TTL_S, TicketStore, issue_ticket
from wsserver.auth.tokens import mint

__all__ = [
    "BEARER_SUBPROTOCOL",
    "EVERYWHERE",
    "TICKET_TTL_S",
    "Authenticator",
    "CannotTell",
    "Identity",
    "Patterns",
    "Refused",
    "TicketStore",
    "any_of",
    "issue_ticket",
    "matches",
    "mint",
]
