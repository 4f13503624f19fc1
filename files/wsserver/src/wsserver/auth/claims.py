# SPDX-License-Identifier: MIT
"""The claims that tokens and tickets share: `sub`, `exp`, `join` and `publish`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from wsserver.auth.identity import Identity
from wsserver.auth.patterns import Patterns, checked

_USER_LENGTH_MAX = 128


class Defaults(NamedTuple):
    """The patterns for tokens and tickets without such a claim."""

    join: Patterns
    publish: Patterns


def identity_of(claims: dict[str, Any], defaults: Defaults) -> Identity:
    """The identity that the claims describe.

    Raises ValueError, whose text repeats no claim's value.
    """
    user = _user(claims.get("sub"))
    try:
        expires = float(claims["exp"])
    except (LookupError, TypeError, ValueError, OverflowError):
        raise ValueError("exp must be a time in seconds") from None
    join = checked("join", claims["join"]) if "join" in claims else defaults.join
    publish = checked("publish", claims["publish"]) if "publish" in claims else defaults.publish
    return Identity(user, expires, join, publish)


def make(user: str, ttl_s: int, join: Sequence[str] | None, publish: Sequence[str] | None) -> dict[str, Any]:
    """Claims that are valid for `ttl_s` seconds.

    Raises ValueError for a user or patterns that no server accepts.
    """
    now = int(time.time())
    claims: dict[str, Any] = {"sub": _user(user), "iat": now, "exp": now + ttl_s}
    if join is not None:
        claims["join"] = checked("join", join)
    if publish is not None:
        claims["publish"] = checked("publish", publish)
    return claims


def is_user(name: str) -> bool:
    return 0 < len(name) <= _USER_LENGTH_MAX and name.isprintable()


def _user(sub: object) -> str:
    if not isinstance(sub, str) or not is_user(sub):
        raise ValueError(f"sub must have 1 to {_USER_LENGTH_MAX} printable characters")
    return sub
