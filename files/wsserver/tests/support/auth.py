# SPDX-License-Identifier: MIT
"""Requests, tokens and settings for tests of authentication and permissions."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from pydantic import SecretStr
from websockets.datastructures import Headers
from websockets.http11 import Request

from wsserver.auth import Authenticator, Identity, Refused, TicketStore
from wsserver.settings import Settings
from wsserver.storage.memory.tickets import MemoryTickets

SECRET = "a secret of at least 32 characters"
ORIGIN = "https://chat.example.org"


def good_claims(**claims: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": int(time.time()) + 600, **claims}


def token(claims: dict[str, Any], secret: str = SECRET, **header: Any) -> str:
    """A token made by hand: PyJWT refuses to sign some of these."""
    return signed({"alg": "HS256", "typ": "JWT", **header}, claims, secret.encode())


def signed(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{text}.{part(algorithm.sign(text.encode(), secret))}"


def bearer(text: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {text}")


def request(*headers: tuple[str, str], path: str = "/ws") -> Request:
    return Request(path, Headers(headers))


def authenticator(tickets: TicketStore | None = None, **settings: Any) -> Authenticator:
    """An authenticator with the secret and the origin of these tests, and with `settings`."""
    chosen = {"jwt_secret": SecretStr(SECRET), "allowed_origins": frozenset([ORIGIN]), **settings}
    return Authenticator(Settings(**chosen), tickets or MemoryTickets())


def at_once(work: Any) -> Any:
    """The result of a coroutine that must not wait."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def authenticate(*headers: tuple[str, str], path: str = "/ws", **settings: Any) -> Identity:
    identity = at_once(authenticator(**settings).authenticate(request(*headers, path=path)))
    assert isinstance(identity, Identity)
    return identity


def refused(*headers: tuple[str, str], path: str = "/ws", **settings: Any) -> Refused:
    with pytest.raises(Refused) as info:
        authenticate(*headers, path=path, **settings)
    return info.value
