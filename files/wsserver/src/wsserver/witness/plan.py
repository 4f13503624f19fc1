# SPDX-License-Identifier: MIT
"""The plan of a witness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext

from wsserver.client import CredentialFactory


class CannotWatch(Exception):
    """The witness's clients cannot connect. The text is one sentence for the operator."""


@dataclass(frozen=True)
class Plan:
    """`connections` subscribers, spread over `rooms`, and `publishers` that publish to all of these
    rooms in turn.

    `credentials`: returns a user's credentials, by name. `tls`: the TLS context if the system's
    trust is not enough. `rate`: messages per second, of all publishers together. `size`: bytes that
    pad each message. `settle_s`: how long to wait at the end for messages on their way.
    """

    url: str
    credentials: Callable[[str], CredentialFactory]
    tls: SSLContext | None = None
    connections: int = 20
    rooms: int = 4
    publishers: int = 4
    rate: float = 20.0
    size: int = 0
    settle_s: float = 30.0
