# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Whether expressions hold, as Prometheus sees it."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request

_TIMEOUT_S = 5


class PrometheusError(Exception):
    """It does not answer, or not with a result; the text is for the operator."""


class ExpressionError(PrometheusError):
    """It refuses the expression, and always will."""


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/api/v1/query"

    def holds(self, expression: str) -> bool:
        """Whether it has any result now: as in an alert, `errors > 5` has none unless it is so. Raises PrometheusError."""
        body = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(self._url, body, timeout=_TIMEOUT_S) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code in (400, 422):
                raise ExpressionError(f"Prometheus refuses the expression {expression}: {_why(error)}") from error
            raise PrometheusError(f"{self._url} answers {error.code}") from error
        except (OSError, ValueError) as error:
            raise PrometheusError(f"{self._url} does not answer: {getattr(error, 'reason', error)}") from error
        try:
            result = found["data"]["result"]
            # A scalar is a pair of time and value, and always there.
            return bool(result) if found["data"]["resultType"] == "vector" else float(result[1]) != 0
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise PrometheusError(f"{self._url} does not answer as Prometheus does") from error


def _why(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(error)


class Gate:
    """Opens once all expressions have held for so long without a break. `wait`: see _waiting; `clock`: has `monotonic()`."""

    def __init__(self, prometheus: Prometheus, expressions: list, hold_s: float, wait, clock) -> None:
        self._prometheus = prometheus
        self._expressions = expressions
        self._hold_s = hold_s
        self._wait = wait
        self._clock = clock
        self.looks = 0
        self.complaint = "was not asked"

    def open(self) -> bool:
        """Whether it did before the deadline; `complaint` says why not. Raises ExpressionError."""
        since = None
        while True:
            if self._all_hold():
                since = self._clock.monotonic() if since is None else since
                if self._clock.monotonic() - since >= self._hold_s:
                    return True
            else:
                since = None
            if self._wait.over:
                return False
            self._wait.pause()

    def _all_hold(self) -> bool:
        self.looks += 1
        for expression in self._expressions:
            try:
                if not self._prometheus.holds(expression):
                    self.complaint = f"{expression} does not hold"
                    return False
            except ExpressionError:
                raise
            except PrometheusError as error:
                self.complaint = str(error)
                return False
        self.complaint = "all hold, but not for long enough"
        return True
