# SPDX-License-Identifier: MIT
from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from websockets.datastructures import Headers

from wsserver.auth import Authenticator, Refused, mint

SECRET = "a secret of at least 32 characters"
ORIGIN = "https://chat.example.org"
NOW = int(time.time())
GOOD = {"sub": "alice", "exp": NOW + 600}


def token(claims: dict[str, Any], secret: str = SECRET, **header: Any) -> str:
    """By hand: PyJWT does not sign all that somebody may send."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256", "typ": "JWT", **header}).encode())
    signed = f"{head}.{part(json.dumps(claims).encode())}"
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{signed}.{part(algorithm.sign(signed.encode(), algorithm.prepare_key(secret)))}"


def authenticate(*headers: tuple[str, str], origins: frozenset[str] = frozenset([ORIGIN])) -> Any:
    return Authenticator(SECRET, origins).authenticate(Headers(headers))


def bearer(text: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {text}")


def refused(*headers: tuple[str, str], **options: Any) -> Refused:
    with pytest.raises(Refused) as info:
        authenticate(*headers, **options)
    return info.value


def test_a_minted_token_is_good() -> None:
    identity = authenticate(bearer(mint(SECRET, "alice", 60)))
    assert identity.user == "alice"
    assert abs(identity.expires - time.time() - 60) < 30


@pytest.mark.parametrize(
    "bad",
    [
        token(GOOD, secret="another secret of 32 characters!"),
        token(GOOD, alg="none"),
        token(GOOD, alg="HS512"),
        token(GOOD, alg="RS256"),
        jwt.encode(GOOD, None, "none"),
        token(GOOD).rpartition(".")[0] + ".",
        token({"sub": "alice", "exp": NOW - 60}),
        token({"sub": "alice", "exp": NOW + 999, "nbf": NOW + 600}),
        token({"sub": "alice"}),
        token({"exp": NOW + 600}),
        token({"sub": None, "exp": NOW + 600}),
        token({"sub": "", "exp": NOW + 600}),
        token({"sub": 7, "exp": NOW + 600}),
        token({"sub": ["alice"], "exp": NOW + 600}),
        token({"sub": "x" * 129, "exp": NOW + 600}),
        token({"sub": "two\nlines", "exp": NOW + 600}),
        token({"sub": "nul\0", "exp": NOW + 600}),
        token({"sub": "\ud800", "exp": NOW + 600}),
        token({"sub": "alice", "exp": "soon"}),
        token({"sub": "alice", "exp": [NOW + 600]}),
        token({"sub": "alice", "exp": float("inf")}),
        token({"sub": "alice", "exp": float("nan")}),
        token({"sub": "alice", "exp": 10**400}),
        base64.urlsafe_b64encode(b"[" * 4000).decode() + ".e30.e30",
        "only.two",
        "a.b.c",
        "..",
        "\xff.\xff.\xff",
        "x" * 8000,
    ],
    ids=lambda bad: bad[:20].encode("unicode_escape").decode(),
)
def test_bad_tokens_are_refused_and_not_repeated(bad: str) -> None:
    refusal = refused(bearer(bad))
    assert refusal.status == 401
    assert len(str(refusal)) < 200
    assert not any(len(part) > 3 and part in str(refusal) for part in bad.split("."))


def test_a_clock_that_is_a_little_off_is_forgiven() -> None:
    assert authenticate(bearer(token({"sub": "alice", "exp": int(time.time()) - 2}))).user == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Authorization", ""),),
        (("Authorization", "Bearer"),),
        (("Authorization", "Bearer  "),),
        (("Authorization", "Basic " + mint(SECRET, "alice", 60)),),
        (("Sec-WebSocket-Protocol", "bearer"),),
        (("Sec-WebSocket-Protocol", mint(SECRET, "alice", 60)),),
        (("Sec-WebSocket-Protocol", mint(SECRET, "alice", 60) + ", bearer"),),
        (("Sec-WebSocket-Protocol", "bearer, " + mint(SECRET, "alice", 60) + ", chat"),),
    ],
)
def test_without_a_token(headers: tuple[tuple[str, str], ...]) -> None:
    assert refused(*headers).status == 401


def test_the_ways_to_send_a_token() -> None:
    good = mint(SECRET, "alice", 60)
    for headers in (
        (("authorization", f"bearer {good}"),),
        (("Authorization", f"Bearer   {good} "),),
        (("Sec-WebSocket-Protocol", f"bearer, {good}"),),
        (("Sec-WebSocket-Protocol", f"bearer,{good}"),),
        (("Sec-WebSocket-Protocol", "bearer"), ("Sec-WebSocket-Protocol", good)),
        (bearer(good), ("Sec-WebSocket-Protocol", "bearer")),
    ):
        assert authenticate(*headers).user == "alice"


def test_the_authorization_header_comes_first() -> None:
    mine, other = mint(SECRET, "alice", 60), mint(SECRET, "bob", 60)
    assert authenticate(bearer(mine), ("Sec-WebSocket-Protocol", f"bearer, {other}")).user == "alice"
    assert refused(bearer("bad"), ("Sec-WebSocket-Protocol", f"bearer, {other}")).status == 401


def test_two_headers_where_one_belongs() -> None:
    good = bearer(mint(SECRET, "alice", 60))
    assert refused(good, good).status == 400
    assert refused(good, ("Origin", ORIGIN), ("Origin", "https://evil.example")).status == 400


@pytest.mark.parametrize(
    ("origin", "allowed", "fine"),
    [
        (ORIGIN, {ORIGIN}, True),
        (ORIGIN.upper(), {ORIGIN}, True),
        ("https://evil.example", {ORIGIN}, False),
        ("https://chat.example.org.evil.example", {ORIGIN}, False),
        ("http://chat.example.org", {ORIGIN}, False),
        ("https://chat.example.org:8443", {ORIGIN}, False),
        ("null", {ORIGIN}, False),
        ("", {ORIGIN}, False),
        ("*", {ORIGIN}, False),
        ("https://any.example", {"*"}, True),
        ("null", {"*"}, True),
        (ORIGIN, set(), False),
    ],
)
def test_origins(origin: str, allowed: set[str], fine: bool) -> None:
    headers = [bearer(mint(SECRET, "alice", 60)), ("Origin", origin)]
    if fine:
        assert authenticate(*headers, origins=frozenset(allowed)).user == "alice"
    else:
        assert refused(*headers, origins=frozenset(allowed)).status == 403


def test_a_foreign_origin_is_told_before_anything_about_its_token() -> None:
    assert refused(("Origin", "https://evil.example")).status == 403
