# SPDX-License-Identifier: MIT
"""Who a client is: a signed token in the handshake, and which web pages may open connections."""

from __future__ import annotations

import time
from typing import NamedTuple

import jwt
from websockets.datastructures import Headers, MultipleValuesError

_ALGORITHM = "HS256"
# Clocks of the token's issuer and this host may differ by as much.
_LEEWAY_S = 5
BEARER_SUBPROTOCOL = "bearer"


class Identity(NamedTuple):
    """A user by the token's `sub`, until the token's `exp` (Unix time in seconds)."""

    user: str
    expires: float


class Refused(Exception):
    """The handshake is refused with HTTP `status`; the text never contains the token."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Authenticator:
    """Checks a handshake's Origin and token.

    `secret`: the HS256 key; `allowed_origins`: exact Origin values, `*` for any.
    """

    def __init__(self, secret: str, allowed_origins: frozenset[str]) -> None:
        self._secret = secret
        self._allowed_origins = allowed_origins

    def authenticate(self, headers: Headers) -> Identity:
        """Raises Refused: 403 for a foreign Origin, 401 without a valid token."""
        try:
            origin = headers.get("Origin")
            authorization = headers.get("Authorization")
        except MultipleValuesError:
            raise Refused(400, "more than one Origin or Authorization header") from None
        # Only browsers send an Origin, and a page cannot forge it; other clients have nothing to show.
        if origin is not None and not self._allowed_origins & {origin.lower(), "*"}:
            raise Refused(403, "this origin is not allowed")
        token = _bearer(authorization) or _offered_token(headers)
        if token is None:
            raise Refused(401, "no token: send Authorization: Bearer, or the subprotocols bearer and the token")
        return self._verify(token)

    def _verify(self, token: str) -> Identity:
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                leeway=_LEEWAY_S,
                options={"require": ["sub", "exp"], "verify_aud": False},
            )
            expires = float(claims["exp"])
        except (jwt.PyJWTError, OverflowError) as exc:
            raise Refused(401, f"the token is not valid: {exc}") from None
        user = claims["sub"]
        if not 0 < len(user) <= 128 or not user.isprintable():
            raise Refused(401, "the token is not valid: sub must have 1 to 128 printable characters")
        return Identity(user, expires)


def mint(secret: str, user: str, ttl_s: int) -> str:
    """A token for `user` that is valid for `ttl_s` seconds."""
    now = int(time.time())
    return jwt.encode({"sub": user, "iat": now, "exp": now + ttl_s}, secret, _ALGORITHM)


def _bearer(authorization: str | None) -> str | None:
    scheme, _space, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _offered_token(headers: Headers) -> str | None:
    """The token of `Sec-WebSocket-Protocol: bearer, <jwt>`, the one header that a browser lets a page set."""
    offered = [part.strip() for value in headers.get_all("Sec-WebSocket-Protocol") for part in value.split(",")]
    return offered[1] if len(offered) == 2 and offered[0] == BEARER_SUBPROTOCOL else None
