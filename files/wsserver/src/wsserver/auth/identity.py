# SPDX-License-Identifier: MIT
"""The identity of an authenticated client, or the reason why the client was refused."""

from __future__ import annotations

from typing import Literal, NamedTuple

from wsserver.auth.patterns import Patterns, matches

# Labels of a metric: few, and never a part of a request.
Outcome = Literal[
    "no_token", "bad_token", "expired", "bad_ticket", "bad_origin", "bad_headers", "no_keys", "unknown_key"
]


class Identity(NamedTuple):
    """A user until `expires` (Unix time in seconds), and the patterns of the rooms it may join and
    publish to.

    Plain data, which can be stored and read back. `{sub}` in a pattern stands for `user`.
    """

    user: str
    expires: float
    join: Patterns
    publish: Patterns

    def may_join(self, room: str) -> bool:
        return matches(self.join, room, self.user)

    def may_publish(self, room: str) -> bool:
        return matches(self.publish, room, self.user)


class CannotTell(Exception):
    """The credential can neither be accepted nor refused now: the answer is HTTP 503, or `unavailable`.

    The text never contains a part of a token.
    """

    def __init__(self, why: str, outcome: Outcome) -> None:
        super().__init__(why)
        self.outcome = outcome


class Refused(Exception):
    """The credential is refused for certain: the answer is HTTP `status` (400, 401 or 403).

    The text never contains a part of a token or ticket.
    """

    def __init__(self, status: int, why: str, outcome: Outcome) -> None:
        super().__init__(why)
        self.status = status
        self.outcome = outcome
