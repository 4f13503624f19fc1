# SPDX-License-Identifier: MIT
"""Signed tokens (JWT).

The key decides the algorithm, never the token: the secret verifies only HS256, and a public key
only the algorithms of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jwt
from jwt.exceptions import InvalidSubjectError

from wsserver.auth import claims
from wsserver.auth.claims import Defaults
from wsserver.auth.identity import Identity, Refused
from wsserver.auth.jwks import Keys

_HS256 = "HS256"
# The clocks of the token's issuer and of this host may differ by this much.
_LEEWAY_S = 5
# By the exact type: the text of a PyJWT error may quote the token.
_WHY: dict[type[Exception], str] = {
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidSignatureError: "its signature does not fit",
    jwt.InvalidAlgorithmError: "it is signed with an algorithm that is not accepted here",
    jwt.InvalidIssuerError: "iss is another issuer",
    jwt.InvalidAudienceError: "aud is another audience",
    InvalidSubjectError: "sub must be a string",
    jwt.InvalidIssuedAtError: "iat must be a time in seconds",
}


class Tokens:
    """Verifies tokens against a secret, against public keys, or (each token against its own kind)
    both.
    """

    def __init__(
        self, secret: str | None, keys: Keys | None, issuer: str | None, audience: str | None, defaults: Defaults
    ) -> None:
        self._secret = secret
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._defaults = defaults

    @property
    def ready(self) -> bool:
        """Whether tokens can be verified: there is a secret, or public keys were loaded."""
        return self._secret is not None or (self._keys is not None and self._keys.loaded)

    async def run(self) -> None:
        """Keep the public keys fresh until cancelled; returns at once if there are none."""
        if self._keys is not None:
            await self._keys.run()

    async def verify(self, token: str) -> Identity:
        """The identity of the token's user. Waits only for unknown public keys.

        Raises Refused, CannotTell.
        """
        try:
            verified = await self._verified(token)
        except jwt.ExpiredSignatureError:
            raise Refused(401, "the token has expired", "expired") from None
        except jwt.MissingRequiredClaimError as exc:
            raise _bad(f"it has no {exc.claim}") from None
        except (jwt.PyJWTError, UnicodeError) as exc:
            raise _bad(_WHY.get(type(exc), "it cannot be read")) from None
        try:
            return claims.identity_of(verified, self._defaults)
        except ValueError as exc:
            raise _bad(str(exc)) from None

    async def _verified(self, token: str) -> dict[str, Any]:
        if self._secret is not None:
            try:
                return self._decode(token, self._secret, [_HS256])
            except jwt.InvalidAlgorithmError:
                if self._keys is None:
                    raise
        assert self._keys is not None, "the settings require a secret or public keys"
        header = jwt.get_unverified_header(token)
        key = await self._keys.find(header.get("kid"), header.get("alg"))
        return self._decode(token, key.public, key.algorithms)

    def _decode(self, token: str, key: Any, algorithms: Sequence[str]) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            leeway=_LEEWAY_S,
            issuer=self._issuer,
            audience=self._audience,
            options={"require": ["sub", "exp"], "verify_aud": self._audience is not None},
        )


def mint(
    secret: str,
    user: str,
    ttl_s: int,
    join: Sequence[str] | None = None,
    publish: Sequence[str] | None = None,
    issuer: str | None = None,
    audience: str | None = None,
) -> str:
    """A token for `user`, valid for `ttl_s` seconds.

    Raises ValueError for claims that no server accepts.

    `join`, `publish`: patterns of rooms; None leaves them to the server's settings. The settings
    may also require an `issuer` and an `audience`.
    """
    made = claims.make(user, ttl_s, join, publish)
    made |= {name: value for name, value in (("iss", issuer), ("aud", audience)) if value is not None}
    return jwt.encode(made, secret, _HS256)


def _bad(why: str) -> Refused:
    return Refused(401, f"the token is not valid: {why}", "bad_token")
