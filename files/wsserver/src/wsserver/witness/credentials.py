# SPDX-License-Identifier: MIT
"""The credentials of a witness's clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wsserver.auth import mint
from wsserver.client import CredentialFactory

# Short, so that a witness that runs for hours also covers the renewal of tokens.
_TTL_S = 3600
# The tokens are valid for the rooms of witnesses only.
ROOMS = "witness:"


def from_secret(secret: str) -> Callable[[str], CredentialFactory]:
    """A token for each user, for the rooms of witnesses.

    Raises ValueError for an unusable secret.
    """
    mint(secret, "witness", _TTL_S)

    def of(user: str) -> CredentialFactory:
        async def fresh() -> str:
            return mint(secret, user, _TTL_S, join=[f"{ROOMS}*"], publish=[f"{ROOMS}*"])

        return fresh

    return of


def from_token_file(path: Path) -> Callable[[str], CredentialFactory]:
    """One token for all users, read again for each fresh token. Raises OSError."""

    def read() -> str:
        return path.read_text().strip()

    read()
    return _the_same(read)


def from_token(token: str) -> Callable[[str], CredentialFactory]:
    """One token for all users."""
    return _the_same(lambda: token)


def _the_same(source: Callable[[], str]) -> Callable[[str], CredentialFactory]:
    async def fresh() -> str:
        return source()

    return lambda _user: fresh
