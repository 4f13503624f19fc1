# SPDX-License-Identifier: MIT
"""Finds the token, ticket or cookie in a request, and the web page that sent it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs

from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request

from wsserver.auth.claims import Defaults
from wsserver.auth.identity import Identity, Refused
from wsserver.auth.jwks import FileSource, Keys, UrlSource
from wsserver.auth.tickets import TicketStore, look_up, spend
from wsserver.auth.tokens import Tokens
from wsserver.settings import Settings

BEARER_SUBPROTOCOL = "bearer"
_ANY_ORIGIN = "*"


class Authenticator:
    """Identifies the sender of a request, by the first of: Authorization, subprotocol, ticket,
    cookie.
    """

    def __init__(self, settings: Settings, tickets: TicketStore) -> None:
        secret = settings.jwt_secret
        self._defaults = Defaults(settings.default_join, settings.default_publish)
        self._tokens = Tokens(
            secret.get_secret_value() if secret else None,
            _keys(settings.jwt_jwks) if settings.jwt_jwks else None,
            settings.jwt_issuer,
            settings.jwt_audience,
            self._defaults,
        )
        self._tickets = tickets
        self._cookie = settings.auth_cookie
        self._any_origin = _ANY_ORIGIN in settings.allowed_origins
        self._origins = settings.allowed_origins - {_ANY_ORIGIN}

    @property
    def ready(self) -> bool:
        """Whether tokens can be verified: false until the first public keys, if there is no secret."""
        return self._tokens.ready

    async def run(self) -> None:
        """Keep the public keys fresh until cancelled; returns at once if the settings name none."""
        await self._tokens.run()

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may connect."""
        return self._any_origin or origin.lower() in self._origins

    async def authenticate(self, request: Request) -> Identity:
        """The identity of the sender. A ticket stays valid until `spend`.

        Raises Refused; CannotTell if the key of a token may not be known yet; BrokerUnavailable if
        a ticket cannot be looked up.

        A token that the secret verifies needs no waiting.
        """
        kind, credential = self._presented(request)
        if kind == "ticket":
            return await look_up(self._tickets, credential, self._defaults)
        return await self._tokens.verify(credential)

    async def spend(self, request: Request) -> None:
        """Use up the ticket of an authenticated request, if it presented one.

        Call last, when no other reason can refuse the client: after a refusal that passes, the
        client or the edge presents the same ticket again. Raises Refused, BrokerUnavailable.
        """
        kind, credential = self._presented(request)
        if kind == "ticket":
            await spend(self._tickets, credential)

    def _presented(self, request: Request) -> tuple[Literal["token", "ticket"], str]:
        """The credential of a request. Raises Refused."""
        headers = request.headers
        try:
            origin = headers.get("Origin")
            authorization = headers.get("Authorization")
        except MultipleValuesError:
            raise Refused(400, "more than one Origin or Authorization header", "bad_headers") from None
        # Only browsers send an Origin, and a page cannot forge it. Other clients need none.
        listed = origin is not None and origin.lower() in self._origins
        if origin is not None and not self.allows(origin):
            raise Refused(403, "this origin is not allowed", "bad_origin")
        token = _bearer(authorization) or _offered(headers)
        if token is not None:
            return "token", token
        ticket = _ticket(request.path)
        if ticket is not None:
            return "ticket", ticket
        cookie = self._cookie and _cookie(headers, self._cookie)
        if not cookie:
            raise Refused(
                401, "no token: send Authorization: Bearer, or the subprotocols bearer and the token", "no_token"
            )
        # A browser adds the cookie to the requests of any page, so the origin of the page must be
        # listed.
        if not listed:
            raise Refused(401, "the cookie is accepted from pages of the listed origins only", "no_token")
        return "token", cookie

    async def refresh(self, token: str, identity: Identity) -> Identity:
        """The new identity of a client that is connected as `identity` and sent a fresh token.

        Raises Refused, CannotTell.
        """
        fresh = await self._tokens.verify(token)
        if fresh.user != identity.user:
            raise Refused(401, "the token is not valid: it is another user's", "bad_token")
        return fresh


def _keys(where: str) -> Keys:
    return Keys(FileSource(Path(where)) if where.startswith("/") else UrlSource(where))


def _bearer(authorization: str | None) -> str | None:
    scheme, _space, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _offered(headers: Headers) -> str | None:
    """The token of `Sec-WebSocket-Protocol: bearer, <jwt>`, the one header that a browser lets a
    page set.
    """
    offered = [part.strip() for value in headers.get_all("Sec-WebSocket-Protocol") for part in value.split(",")]
    return offered[1] if len(offered) == 2 and offered[0] == BEARER_SUBPROTOCOL else None


def _ticket(path: str) -> str | None:
    _path, _mark, query = path.partition("?")
    if "ticket=" not in query:
        return None
    tickets = parse_qs(query).get("ticket", [])
    if len(tickets) > 1:
        raise Refused(400, "more than one ticket", "bad_headers")
    return tickets[0] if tickets else None


def _cookie(headers: Headers, name: str) -> str | None:
    pairs = [pair.partition("=") for value in headers.get_all("Cookie") for pair in value.split(";")]
    values = {value.strip() for found, _equals, value in pairs if found.strip() == name}
    if len(values) > 1:
        # Another host of the same domain may have set one of these cookies, and the request does
        # not show which.
        raise Refused(400, f"more than one cookie {name}", "bad_headers")
    return values.pop() if values else None
