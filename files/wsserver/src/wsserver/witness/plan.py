# SPDX-License-Identifier: MIT
"""What a witness is to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext

from wsserver.client import CredentialFactory


class CannotWatch(Exception):
    """Its clients do not get in; the text is one sentence for the operator."""


@dataclass(frozen=True)
class Plan:
    """`connections` subscribers, spread over `rooms`, and `publishers` that publish to all of these rooms in turn.

    `credentials`: what a user shows, by the user's name. `tls`: the trust for wss:// if it is not the system's.
    `rate`: messages a second, of all publishers together. `size`: bytes that pad each message.
    `settle_s`: how long to wait at the end for what is still on its way.
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
