# SPDX-License-Identifier: MIT
"""The credentials of a client, and whether fresh ones may help after a refusal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote

CredentialFactory = Callable[[], Awaitable[str]]

# A header can have these characters. A line end would end the header.
_TOKEN = re.compile(r"[\x21-\x7e]+")
# The service and its edge read lines of 8,192 bytes: a header, or the method, the path and the query.
_LENGTH_MAX = 8000
# The deadline of a factory: after that the client tries again.
ASK_S = 30.0
# The least wait after the refusal of a fresh credential. Clocks may differ by some seconds.
AGAIN_S = 2.0
# The number of refusals in a row of fresh credentials that end the client.
_REFUSALS = 2


class BadCredential(ValueError):
    """No request can have the token or the ticket. The text repeats neither."""


class Credentials:
    """One of: a fixed token; a source of fresh tokens; a source of tickets, each valid for one
    handshake.
    """

    def __init__(
        self, token: str | None, token_factory: CredentialFactory | None, ticket_factory: CredentialFactory | None
    ) -> None:
        if sum(given is not None for given in (token, token_factory, ticket_factory)) != 1:
            raise ValueError("a client needs one of token, token_factory and ticket_factory")
        self._token = None if token is None else _checked(token)
        self._token_factory = token_factory
        self._ticket_factory = ticket_factory
        self._fresh = False  # the last handshake showed a credential from just before
        self._refusals = 0

    async def present(self, url: str) -> tuple[str, dict[str, str]]:
        """The URL and the headers of the next handshake.

        Raises BadCredential, and the exceptions of the factory.
        """
        if self._ticket_factory is not None:
            ticket = await _ask(self._ticket_factory)
            self._fresh = True
            url = f"{url}{'&' if '?' in url else '?'}ticket={quote(ticket, safe='')}"
            if len(url) > _LENGTH_MAX:
                raise BadCredential(
                    f"the URL with the ticket has {len(url)} characters, and the limit is {_LENGTH_MAX}"
                )
            return url, {}
        # A token may have expired since the last handshake. A fixed token is all there is.
        fresh = self._token is None or self._token_factory is None
        if self._token is None:
            await self.renew()
        self._fresh = fresh
        return url, {"Authorization": f"Bearer {self._token}"}

    async def renew(self) -> str | None:
        """A fresh token for a connection whose token expires soon; None without a source of tokens."""
        if self._token_factory is None:
            return None
        self._token = _checked(await _ask(self._token_factory))
        return self._token

    def accepted(self) -> None:
        """The server accepted the credentials.

        If it refuses them later, they are old, and a factory may have new ones.
        """
        self._fresh = False
        self._refusals = 0

    def refused(self, accepted: bool) -> float | None:
        """The server refused the credentials; `accepted`: after it had accepted them.

        Returns the least wait in seconds before the next attempt, None if the client must end. One
        refusal of a fresh credential proves nothing: clocks differ, and handshakes may be slow.
        """
        if self._token_factory is not None:
            self._token = None
        elif self._ticket_factory is None and accepted:
            return None
        if not self._fresh:
            return 0.0
        self._refusals += 1
        return AGAIN_S if self._refusals < _REFUSALS else None


def _checked(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise BadCredential("the token is empty, or has a space, a line end or another character that no token has")
    if len(token) > _LENGTH_MAX:
        raise BadCredential(
            f"the token has {len(token)} characters, and the limit of a header is {_LENGTH_MAX}: use a ticket, "
            "or a token with fewer claims"
        )
    return token


async def _ask(factory: CredentialFactory) -> str:
    """A credential of the factory. Raises its exceptions, TimeoutError, and TypeError if it is no
    text.
    """
    deadline = asyncio.timeout(ASK_S)
    try:
        async with deadline:
            credential: object = await factory()
    except TimeoutError:
        if deadline.expired():
            raise TimeoutError(f"none within {ASK_S:g} s") from None
        raise
    if not isinstance(credential, str):  # as `answer.json().get("token")` of an answer with an error
        raise TypeError(f"the factory gave {type(credential).__name__}, and no text")
    return credential
