# SPDX-License-Identifier: MIT
"""Keeps file descriptors in reserve: clients must not take those that the worker itself needs.

The reserve serves connections to Redis and Postgres, the server API, the control socket, and files.
"""

from __future__ import annotations

import os
import resource
import time

from wsserver.telemetry import metrics
from wsserver.telemetry.logs import log

# The pools of Redis and Postgres, about 30; callers of the server API and of `ctl`; and clients
# that wait for their 503.
_RESERVE = 128
_SUMMARY_S = 10.0


class Descriptors:
    """`scarce`: whether the worker refuses new clients; true until `tick` finds enough again."""

    def __init__(self) -> None:
        self.scarce = False
        self._any = os.open(os.devnull, os.O_RDONLY)
        self._unlogged = 0
        self._summary_at = 0.0

    def for_client(self) -> bool:
        """Whether a client may keep its descriptor. If not, counts a refused client."""
        if not self._reached(_reserve()):
            return True
        self._refused()
        return False

    def for_request(self) -> bool:
        """Whether a new connection may keep its descriptor until its request is answered.

        If not, counts a refused client.
        """
        if not self._reached(_reserve() // 2):
            return True
        self._refused()
        return False

    def tick(self) -> None:
        """Log what has changed, and the refusals of the last seconds. Call often."""
        if self._reached(_reserve()):
            self.scarce = True
        elif self.scarce and not self._unlogged:
            self.scarce = False
            log.info("descriptors_suffice", limit=_limit())
        now = time.monotonic()
        if self._unlogged and now >= self._summary_at:
            self._summary_at = now + _SUMMARY_S
            log.warning("descriptors_scarce", refused=self._unlogged, limit=_limit(), reserve=_reserve())
            self._unlogged = 0

    def _refused(self) -> None:
        self.scarce = True
        self._unlogged += 1
        metrics.LIMITED.labels("descriptors").inc()

    def _reached(self, reserve: int) -> bool:
        """Whether no descriptor is free but those in reserve.

        The kernel gives out the lowest free number, so one number tells without counting them all.
        """
        try:
            lowest = os.dup(self._any)
        except OSError:
            return True
        os.close(lowest)
        return lowest >= _limit() - reserve


def _limit() -> int:
    """The limit now: an operator may raise it with prlimit while the worker runs."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _reserve() -> int:
    # WsDescriptorsNearLimit tells of 80 % in use, so less than a fifth.
    return min(_RESERVE, _limit() // 8)
