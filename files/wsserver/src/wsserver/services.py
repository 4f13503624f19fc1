# SPDX-License-Identifier: MIT
"""What all sessions of a worker share."""

from __future__ import annotations

from dataclasses import dataclass

from wsserver.auth import Authenticator
from wsserver.history import History
from wsserver.hub import Hub
from wsserver.limits import ConnectionLimits
from wsserver.outbox import Outbox
from wsserver.presence import Presence
from wsserver.publisher import Publisher
from wsserver.quotas import Quotas


@dataclass(slots=True)
class Services:
    authenticator: Authenticator
    hub: Hub
    outbox: Outbox
    publisher: Publisher
    presence: Presence
    history: History
    quotas: Quotas
    limits: ConnectionLimits
