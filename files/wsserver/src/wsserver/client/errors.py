# SPDX-License-Identifier: MIT
"""What can go wrong for good, and what only for now."""

from __future__ import annotations

import random

from wsserver.protocol.events import Error

_RETRY_S = 0.3
_PASSING = frozenset({"unavailable", "outcome_unknown", "broker_full", "not_archived"})


class Closed(Exception):
    """The client is closed: by the application, or for good because the server refuses it."""


class ServerError(Exception):
    """The server refused a command; `code` is from the table of docs/protocol.md."""

    def __init__(self, error: Error) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.code = error.code


class JoinError(ServerError):
    """The server does not let this client into the room."""


class PublishError(ServerError):
    """Trying again does not help. Only if an earlier try was cut off may the message have been published.

    `outcome_unknown`: it was repeated for as long as the server recognises repeats, four minutes, in vain.
    """


def passes(error: Error) -> bool:
    """Whether the same command may succeed later."""
    return error.code in _PASSING or error.retry_after_ms is not None


def pause_s(error: Error) -> float:
    """When to try again: never earlier than the server says, and not all clients at once."""
    least = _RETRY_S if error.retry_after_ms is None else error.retry_after_ms / 1000
    return least * random.uniform(1, 1.5)
