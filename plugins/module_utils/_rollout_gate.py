# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Checks the workers of this host and of the other hosts, until a worker may be replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.selfhost.websocket.plugins.module_utils import _rollout
from ansible_collections.selfhost.websocket.plugins.module_utils._readyz import Answer

# A crashed worker is ready again within a few seconds.
_LOOKS = 11
_ASKS = 6
_PAUSE_S = 2.0
_AT_ONCE = 64


class Gate:
    """The gate. `survey` returns the facts of this host's workers, `ask` the answer of an endpoint.

    `clock` has a function `sleep(seconds)`, like the module `time`.
    """

    def __init__(
        self, survey: Callable[[], list[dict[str, Any]]], ask: Callable[[str], Answer], clock: Any = time
    ) -> None:
        self.survey = survey
        self._ask = ask
        self._clock = clock

    def look(self, instance: str, by: str, once: bool = False) -> list[dict[str, Any]]:
        """Return this host's workers once all others are ready, one is drained by an operator, or
        after 20 s.
        """
        found = self.survey()
        for _again in range(0 if once else _LOOKS - 1):
            workers = linked(found)
            if _rollout.held(workers, by) or not _rollout.missing(workers, instance):
                break
            self._clock.sleep(_PAUSE_S)
            found = self.survey()
        return found

    def unready(self, endpoints: Collection[str]) -> dict[str, Answer]:
        """Return the endpoints that did not become ready within 10 s, with their last answers."""
        answers: dict[str, Answer] = {}
        left = list(endpoints)
        for attempt in range(_ASKS):
            if not left:
                break
            if attempt:
                self._clock.sleep(_PAUSE_S)
            with ThreadPoolExecutor(min(len(left), _AT_ONCE)) as threads:
                answers = dict(zip(left, threads.map(self._ask, left), strict=True))
            left = [endpoint for endpoint, answer in answers.items() if not answer.ready]
        return {endpoint: answers[endpoint] for endpoint in left}


def linked(facts: list[dict[str, Any]]) -> list[_rollout.Worker]:
    """Return the workers that have a generation."""
    return [_rollout.Worker.from_facts(each) for each in facts if each["generation"] is not None]
