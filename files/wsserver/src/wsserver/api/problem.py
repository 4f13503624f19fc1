# SPDX-License-Identifier: MIT
"""The errors that requests end with, and their HTTP answers."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

from wsserver.errors import BrokerError, OutcomeUnknown

_RETRY_AFTER_S = "1"
_STATUS = {
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "outcome_unknown": HTTPStatus.GATEWAY_TIMEOUT,
    "not_archived": HTTPStatus.GATEWAY_TIMEOUT,
    "broker_full": HTTPStatus.INSUFFICIENT_STORAGE,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
}


class ErrorBody(msgspec.Struct, frozen=True):
    """`code` is for programs, `message` for people.

    The message names the field and what is allowed.
    """

    code: str
    message: str


class Problem(Exception):
    """Ends the request with HTTP `status`; `headers` have their HTTP names."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(code, message)
        self._headers = headers or {}

    def response(self) -> web.Response:
        response = answer({"error": self.body}, self.status)
        response.headers.update(self._headers)
        if self.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
            response.headers["Retry-After"] = _RETRY_AFTER_S
        if self.status is HTTPStatus.SERVICE_UNAVAILABLE:
            response.force_close()  # the next connection may reach a worker that is ready
        return response


def answer(body: object, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json", headers=headers)


def bad_request(why: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "bad_request", why)


def too_large(why: str) -> Problem:
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", why)


def from_broker(exc: BrokerError) -> Problem:
    return Problem(_STATUS.get(exc.code, HTTPStatus.BAD_GATEWAY), exc.code, broker_text(exc))


def broker_text(exc: BrokerError) -> str:
    if isinstance(exc, OutcomeUnknown):
        return f"{exc}; repeat the request with the same Idempotency-Key (or id) to be sure"
    return str(exc)
