# SPDX-License-Identifier: MIT
"""What the clients of a witness show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wsserver.auth import mint
from wsserver.client import CredentialFactory

# Short enough that a witness of some hours sees tokens renewed on open connections.
_TTL_S = 3600
# For its own rooms and no other.
ROOMS = "witness:"


def from_secret(secret: str) -> Callable[[str], CredentialFactory]:
    """A token for each user, for the rooms of witnesses. Raises ValueError for a secret that signs nothing."""
    mint(secret, "witness", _TTL_S)

    def of(user: str) -> CredentialFactory:
        async def fresh() -> str:
            return mint(secret, user, _TTL_S, join=[f"{ROOMS}*"], publish=[f"{ROOMS}*"])

        return fresh

    return of


def from_token_file(path: Path) -> Callable[[str], CredentialFactory]:
    """One token for all, read again whenever a fresh one is wanted. Raises OSError."""

    def read() -> str:
        return path.read_text().strip()

    read()
    return _the_same(read)


def from_token(token: str) -> Callable[[str], CredentialFactory]:
    """One token for all."""
    return _the_same(lambda: token)


def _the_same(source: Callable[[], str]) -> Callable[[str], CredentialFactory]:
    async def fresh() -> str:
        return source()

    return lambda _user: fresh
