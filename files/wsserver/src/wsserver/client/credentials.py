# SPDX-License-Identifier: MIT
"""What a client shows when it connects, and whether something fresher may help after it was refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

CredentialFactory = Callable[[], Awaitable[str]]


class Credentials:
    """One of: a token for good; a source of fresh tokens; a source of tickets, each good for one handshake."""

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
        """The URL and the headers of the next handshake. Raises whatever a factory raises."""
        if self._ticket_factory is not None:
            ticket = await self._ticket_factory()
            self._fresh = True
            return f"{url}{'&' if '?' in url else '?'}ticket={quote(ticket, safe='')}", {}
        if self._token is None:
            await self.renew()
            self._fresh = True
        return url, {"Authorization": f"Bearer {self._token}"}

    async def renew(self) -> str | None:
        """A token for a connection whose own expires soon; None if there is no source of them."""
        if self._token_factory is None:
            return None
        self._token = await self._token_factory()
        return self._token

    def accepted(self) -> None:
        """They let the client in; what is refused later has aged, and a factory may know better."""
        self._fresh = self._token_factory is None and self._ticket_factory is None

    def refused(self) -> bool:
        """They were refused. True if another try with fresh ones is worth it."""
        if self._fresh:
            return False
        self._token = None
        return True
