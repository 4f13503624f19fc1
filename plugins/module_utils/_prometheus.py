# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Asks Prometheus whether expressions hold."""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.parse

from ansible.module_utils.urls import open_url

from ansible_collections.selfhost.websocket.plugins.module_utils._waiting import Wait

_ANSWER_S = 5


class PrometheusError(Exception):
    """Prometheus does not answer, or not with a result. The text is for the operator."""


class ExpressionError(PrometheusError):
    """The expression is invalid, so a retry cannot help."""


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/api/v1/query"

    def holds(self, expression: str) -> bool:
        """Whether an expression has a result now, as in an alert. Raises PrometheusError."""
        try:
            data = json.loads(self._ask(expression))["data"]
            kind, result = data["resultType"], data["result"]
            if kind == "vector":
                return len(result) > 0
            if kind == "scalar":  # a pair of time and value, and always there
                value = float(result[1])
                return value != 0 and not math.isnan(value)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise PrometheusError(f"{self._url} does not answer as Prometheus does") from error
        raise ExpressionError(f"{expression} is a {kind}, which always or never holds: use a vector or a scalar")

    def _ask(self, expression: str) -> bytes:
        body = urllib.parse.urlencode({"query": expression})
        try:
            with open_url(self._url, data=body, timeout=_ANSWER_S, use_proxy=False, use_netrc=False) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            why = _why(error)
            if error.code == http.client.BAD_REQUEST:
                raise ExpressionError(f"Prometheus refuses the expression {expression}: {why}") from error
            raise PrometheusError(f"{self._url} answers {error.code}: {why}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PrometheusError(f"{self._url} does not answer: {getattr(error, 'reason', error)}") from error


def _why(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return str(error.reason)


class Gate:
    """Opens once all expressions have held for `hold_s` without a break. `wait` is the deadline."""

    def __init__(self, prometheus: Prometheus, expressions: list[str], hold_s: float, wait: Wait) -> None:
        self._prometheus = prometheus
        self._expressions = expressions
        self._hold_s = hold_s
        self._wait = wait
        self.looks = 0
        self.complaint = "Prometheus answered too slowly"

    def open(self) -> bool:
        """Whether the gate opened before the deadline. If not, `complaint` has the last reason.

        Raises ExpressionError.
        """
        since = None
        while True:
            complaint = self._look()
            if complaint:
                since, self.complaint = None, complaint
            else:
                since = self._wait.seconds if since is None else since
                if self._wait.seconds - since >= self._hold_s:
                    return True
            if self._wait.over:
                return False
            self._wait.pause()

    def _look(self) -> str | None:
        """Return why the gate does not open, if so."""
        self.looks += 1
        try:
            failing = next((each for each in self._expressions if not self._prometheus.holds(each)), None)
        except ExpressionError:
            raise
        except PrometheusError as error:
            return str(error)
        return failing and f"{failing} did not hold"
