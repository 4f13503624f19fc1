# SPDX-License-Identifier: MIT
"""The credentials of a client, and whether fresh ones may help after a refusal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

CredentialFactory = Callable[[], Awaitable[str]]


class Credentials:
    """One of: a fixed token; a source of fresh tokens; a source of tickets, each valid for one
    handshake.
    """

    def __init__(
        self, token: str | None, token_factory: CredentialFactory | None, ticket_factory: CredentialFactory | None
    ) -> None:
        if sum(given is not None for given in (token, token_factory, ticket_factory)) != 1:
            raise ValueError("a client needs one of token, token_factory and ticket_factory")
        self._token = token
        self._token_factory = token_factory
        self._ticket_factory = ticket_factory
        self._fresh = token is not None

    async def present(self, url: str) -> tuple[str, dict[str, str]]:
        """The URL and the headers of the next handshake. Raises the exceptions of the factory."""
        if self._ticket_factory is not None:
            ticket = await self._ticket_factory()
            self._fresh = True
            return f"{url}{'&' if '?' in url else '?'}ticket={quote(ticket, safe='')}", {}
        if self._token is None:
            await self.renew()
            self._fresh = True
        return url, {"Authorization": f"Bearer {self._token}"}

    async def renew(self) -> str | None:
        """A fresh token for a connection whose token expires soon; None without a source of tokens."""
        if self._token_factory is None:
            return None
        self._token = await self._token_factory()
        return self._token

    def accepted(self) -> None:
        """The server accepted the credentials.

        If it refuses them later, they are old, and a factory may have new ones.
        """
        self._fresh = self._token_factory is None and self._ticket_factory is None

    def refused(self) -> bool:
        """The server refused the credentials. Returns whether to try again with fresh ones."""
        if self._fresh:
            return False
        self._token = None
        return True
