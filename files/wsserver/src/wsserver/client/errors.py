# SPDX-License-Identifier: MIT
"""Errors of the client: which are final, and which may pass."""

from __future__ import annotations

import random

from wsserver.protocol.events import Error

_RETRY_S = 0.3
_PASSING = frozenset({"unavailable", "outcome_unknown", "broker_full", "not_archived"})


class Closed(Exception):
    """The client is closed: by the application, or because the server refuses it permanently."""


class ServerError(Exception):
    """The server refused a command; `code` is from the table of docs/protocol.md."""

    def __init__(self, error: Error) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.code = error.code


class JoinError(ServerError):
    """The server refuses this client the room."""


class PublishError(ServerError):
    """The publish failed permanently.

    The message may be published only if a connection broke during an earlier attempt.

    `outcome_unknown`: no repeat within four minutes got an acknowledgement, and the server
    recognises a later repeat no longer.
    """


def passes(error: Error) -> bool:
    """Whether the same command may succeed later."""
    return error.code in _PASSING or error.retry_after_ms is not None


def pause_s(error: Error) -> float:
    """The seconds until the next attempt: not before the server allows it, and not all clients at
    once.
    """
    least = _RETRY_S if error.retry_after_ms is None else error.retry_after_ms / 1000
    return least * random.uniform(1, 1.5)
