# SPDX-License-Identifier: MIT
"""Errors of the stores."""

from __future__ import annotations


class BrokerError(Exception):
    """A publish or a read failed; `code` and the text go to the client."""

    code = "broker_error"


class BrokerUnavailable(BrokerError):
    """The broker is unavailable; nothing was done."""

    code = "unavailable"

    def __init__(self, text: str = "the broker is unavailable") -> None:
        super().__init__(text)


class ArchiveUnavailable(BrokerUnavailable):
    """The store of older messages is unavailable; nothing was done."""

    def __init__(self, text: str = "the archive is unavailable") -> None:
        super().__init__(text)


class OutcomeUnknown(BrokerError):
    """The connection broke while a publish was under way: it may or may not have happened."""

    code = "outcome_unknown"


class BrokerFull(BrokerError):
    """The broker refuses new messages rather than dropping old ones."""

    code = "broker_full"
