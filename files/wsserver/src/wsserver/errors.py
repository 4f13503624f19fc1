# SPDX-License-Identifier: MIT
"""Errors of the stores."""

from __future__ import annotations


class BrokerError(Exception):
    """A publish or a read failed; `code`, the text and `retry_after_ms` go to the client."""

    code = "broker_error"
    retry_after_ms: int | None = None


class BrokerUnavailable(BrokerError):
    """The broker is unavailable; nothing was done."""

    code = "unavailable"

    def __init__(self, text: str = "the broker is unavailable") -> None:
        super().__init__(text)


class BrokerBusy(BrokerUnavailable):
    """Too many requests wait for the broker; nothing was done."""

    code = "rate_limited"
    retry_after_ms = 1000

    def __init__(self, text: str = "the broker is busy; repeat the request later") -> None:
        super().__init__(text)


class ArchiveUnavailable(BrokerUnavailable):
    """The store of older messages is unavailable; nothing was done."""

    def __init__(self, text: str = "the archive is unavailable") -> None:
        super().__init__(text)


class ArchiveBusy(ArchiveUnavailable):
    """Too many reads wait for the store of older messages; nothing was done."""

    code = "rate_limited"
    retry_after_ms = 1000

    def __init__(self) -> None:
        super().__init__("the archive is busy; repeat the request later")


class BrokerFull(BrokerUnavailable):
    """The broker refuses writes rather than dropping old messages; nothing was done."""

    code = "broker_full"

    def __init__(self, text: str = "the broker is full") -> None:
        super().__init__(text)


class OutcomeUnknown(BrokerError):
    """The connection broke while a publish was under way: it may or may not have happened."""

    code = "outcome_unknown"
