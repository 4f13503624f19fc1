# SPDX-License-Identifier: MIT
from __future__ import annotations

import base64
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.auth import (
    ORIGIN,
    SECRET,
    at_once,
    authenticate,
    authenticator,
    bearer,
    good_claims,
    refused,
    request,
    signed,
    token,
)
from websockets.datastructures import Headers
from websockets.http11 import Request

from wsserver.auth import Identity, Refused, issue_ticket, mint
from wsserver.storage.memory.tickets import MemoryTickets

NOW = int(time.time())
# Tokens are made when tests are collected, and a busy machine may run a test much later.
LATER = NOW + 86400
GOOD = {"sub": "alice", "exp": LATER}

# The claims of a token.


def test_a_minted_token_is_accepted_without_waiting() -> None:
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
        token(GOOD, alg=None),
        token(GOOD, alg=["HS256"]),
        token(GOOD, alg={"HS256": 1}),
        token(GOOD, kid=7),
        token(GOOD, crit=["tokenpart"]),
        jwt.encode(GOOD, None, "none"),
        token(GOOD).rpartition(".")[0] + ".",
        token({"sub": "alice", "exp": LATER + 999, "nbf": LATER}),
        token({"sub": "alice", "exp": LATER + 999, "iat": LATER}),
        token({"sub": "alice"}),
        token({"exp": LATER}),
        token({"sub": None, "exp": LATER}),
        token({"sub": "", "exp": LATER}),
        token({"sub": 7, "exp": LATER}),
        token({"sub": ["alice"], "exp": LATER}),
        token({"sub": "x" * 129, "exp": LATER}),
        token({"sub": "two\nlines", "exp": LATER}),
        token({"sub": "nul\0", "exp": LATER}),
        token({"sub": "\ud800", "exp": LATER}),
        token({"sub": "alice", "exp": "soon"}),
        token({"sub": "alice", "exp": [LATER]}),
        token({"sub": "alice", "exp": float("inf")}),
        token({"sub": "alice", "exp": float("nan")}),
        token({"sub": "alice", "exp": 10**400}),
        token({**GOOD, "join": "*"}),
        token({**GOOD, "join": None}),
        token({**GOOD, "join": {"*": 1}}),
        token({**GOOD, "join": ["lobby", 7]}),
        token({**GOOD, "join": [""]}),
        token({**GOOD, "join": ["x" * 129]}),
        token({**GOOD, "join": ["\ud800"]}),
        token({**GOOD, "publish": ["*"] * 65}),
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
    assert (refusal.status, refusal.outcome) == (401, "bad_token")
    assert len(str(refusal)) < 200
    assert not any(len(part) > 3 and part in str(refusal) for part in [*bad.split("."), "tokenpart"])


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"sub": "alice"}, "has no exp"),
        ({"exp": LATER}, "has no sub"),
        ({**GOOD, "nbf": LATER}, "not valid yet"),
        ({**GOOD, "join": "*"}, "join must be a list of at most 64 patterns"),
        ({**GOOD, "publish": [1]}, "publish must be a list of at most 64 patterns"),
        ({**GOOD, "sub": "\n"}, "sub must have 1 to 128 printable characters"),
    ],
)
def test_a_refusal_names_the_fault(claims: dict[str, Any], why: str) -> None:
    assert why in str(refused(bearer(token(claims))))


def test_an_expired_token_is_named_as_such() -> None:
    refusal = refused(bearer(token({"sub": "alice", "exp": NOW - 60})))
    assert (refusal.status, refusal.outcome, str(refusal)) == (401, "expired", "the token has expired")


def test_a_small_clock_difference_is_accepted() -> None:
    assert authenticate(bearer(token({"sub": "alice", "exp": int(time.time()) - 2}))).user == "alice"


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60))
def test_no_header_causes_an_internal_error(text: str) -> None:
    """Arbitrary text in the place of a token, ticket or cookie."""
    everywhere = authenticator(auth_cookie="session")
    for headers, path in (
        ([bearer(text)], "/ws"),
        ([bearer(f"{text}.{text}.{text}")], "/ws"),
        ([("Sec-WebSocket-Protocol", f"bearer, {text}")], "/ws"),
        ([("Origin", ORIGIN), ("Cookie", f"session={text}")], "/ws"),
        ([("Cookie", text)], f"/ws?{text}"),
        ([], f"/ws?ticket={text}"),
        ([("Origin", text)], "/ws"),
    ):
        with pytest.raises(Refused):
            at_once(everywhere.authenticate(Request(path, Headers(headers))))


def test_issuer_and_audience_are_checked_if_they_are_set() -> None:
    both = {"jwt_issuer": "https://id.example.org", "jwt_audience": "chat"}
    good = good_claims(iss="https://id.example.org", aud="chat")
    assert authenticate(bearer(token(good)), **both).user == "alice"
    assert authenticate(bearer(token({**good, "aud": ["mail", "chat"]})), **both).user == "alice"
    for wrong, why in (
        ({**good, "iss": "https://evil.example"}, "iss is another issuer"),
        ({**good, "aud": "mail"}, "aud is another audience"),
        ({**good, "aud": []}, "it has no aud"),
        ({**good, "aud": {"chat": 1}}, "aud is another audience"),
        (good_claims(aud="chat"), "it has no iss"),
        (good_claims(iss="https://id.example.org"), "it has no aud"),
    ):
        refusal = refused(bearer(token(wrong)), **both)
        assert refusal.outcome == "bad_token"
        assert why in str(refusal)
    assert authenticate(bearer(token(good_claims(iss="anyone", aud="anything")))).user == "alice"


def test_what_a_token_permits() -> None:
    own = authenticate(bearer(token(good_claims(join=["team:*", "user:{sub}"], publish=[]))))
    assert [own.may_join(room) for room in ("team:a", "user:alice", "user:bob", "lobby")] == [True, True, False, False]
    assert not own.may_publish("team:a")
    silent = token(good_claims())
    assert authenticate(bearer(silent)).may_publish("anywhere")
    left = authenticate(bearer(silent), default_join=("lobby",), default_publish=("user:{sub}",))
    assert [left.may_join("lobby"), left.may_join("user:alice")] == [True, False]
    assert [left.may_publish("lobby"), left.may_publish("user:alice")] == [False, True]
    half = authenticate(bearer(token(good_claims(join=["team:*"]))), default_join=("x",), default_publish=("y",))
    assert (half.join, half.publish) == (("team:*",), ("y",))


def test_the_same_patterns_are_kept_once() -> None:
    one, two = (authenticate(bearer(token(good_claims(sub=user, join=["team:*"])))) for user in ("alice", "bob"))
    assert one.join is two.join


def test_mint_refuses_what_no_server_accepts() -> None:
    good = authenticate(bearer(mint(SECRET, "alice", 60, ["team:*"], [])))
    assert (good.join, good.publish) == (("team:*",), ())
    for user, join in (("", None), ("two\nlines", None), ("alice", ["x" * 129]), ("alice", ["*"] * 65)):
        with pytest.raises(ValueError, match="must"):
            mint(SECRET, user, 60, join)


# The places of a token.


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
        (("Origin", ORIGIN), ("Cookie", "session=" + mint(SECRET, "alice", 60))),  # no such setting
    ],
)
def test_without_a_token(headers: tuple[tuple[str, str], ...]) -> None:
    refusal = refused(*headers)
    assert (refusal.status, refusal.outcome) == (401, "no_token")


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


async def test_the_first_source_in_the_order_counts_and_no_other() -> None:
    tickets = MemoryTickets()
    everything = authenticator(tickets, auth_cookie="session")

    async def who(header: str = "", protocol: str = "", ticket: str = "", cookie: str = "") -> str:
        headers = [("Origin", ORIGIN)]
        headers += [bearer(header)] if header else []
        headers += [("Sec-WebSocket-Protocol", f"bearer, {protocol}")] if protocol else []
        headers += [("Cookie", f"session={cookie}")] if cookie else []
        path = f"/events?room=r&ticket={ticket}" if ticket else "/ws"
        presented = request(*headers, path=path)
        try:
            identity = await everything.authenticate(presented)
            await everything.spend(presented)
            return identity.user
        except Refused as refusal:
            return refusal.outcome

    header, protocol, cookie = (mint(SECRET, user, 60) for user in ("header", "protocol", "cookie"))
    ticket = await issue_ticket(tickets, "ticket")
    assert await who(header, protocol, ticket, cookie) == "header"
    assert await who("", protocol, ticket, cookie) == "protocol"
    assert await who("", "", ticket, cookie) == "ticket"
    assert await who("", "", "", cookie) == "cookie"
    assert await who("bad", protocol, "", cookie) == "bad_token"
    assert await who("", "bad", "", cookie) == "bad_token"
    assert await who("", "", ticket, cookie) == "bad_ticket"  # it has been used
    assert await who("", "", "", "bad") == "bad_token"


def test_duplicate_headers_are_refused() -> None:
    good = bearer(mint(SECRET, "alice", 60))
    for headers, path in (
        ((good, good), "/ws"),
        ((good, ("Origin", ORIGIN), ("Origin", "https://evil.example")), "/ws"),
        ((), "/ws?ticket=one&ticket=two"),
    ):
        refusal = refused(*headers, path=path)
        assert (refusal.status, refusal.outcome) == (400, "bad_headers")


# Origins and cookies.


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
        assert authenticate(*headers, allowed_origins=frozenset(allowed)).user == "alice"
    else:
        refusal = refused(*headers, allowed_origins=frozenset(allowed))
        assert (refusal.status, refusal.outcome) == (403, "bad_origin")


def test_a_foreign_origin_is_refused_before_its_token_is_checked() -> None:
    assert refused(("Origin", "https://evil.example")).status == 403


@pytest.mark.parametrize(
    ("origin", "allowed", "outcome"),
    [
        (ORIGIN, {ORIGIN}, None),
        (ORIGIN, {ORIGIN, "*"}, None),
        (None, {ORIGIN}, "no_token"),
        (None, {"*"}, "no_token"),
        ("https://evil.example", {ORIGIN}, "bad_origin"),
        # Any page may connect with its own token, but must not use the user's cookie.
        ("https://evil.example", {"*"}, "no_token"),
        ("https://evil.example", {ORIGIN, "*"}, "no_token"),
        ("null", {"*"}, "no_token"),
        ("*", {"*"}, "no_token"),
    ],
)
def test_a_cookie_counts_from_listed_pages_only(origin: str | None, allowed: set[str], outcome: str | None) -> None:
    headers = [("Cookie", f"theme=dark; session={mint(SECRET, 'alice', 60)}; x=y")]
    headers += [("Origin", origin)] if origin is not None else []
    settings = {"auth_cookie": "session", "allowed_origins": frozenset(allowed)}
    if outcome is None:
        assert authenticate(*headers, **settings).user == "alice"
    else:
        assert refused(*headers, **settings).outcome == outcome


def test_cookies_of_other_names_and_two_of_one_name() -> None:
    mine, other = mint(SECRET, "alice", 60), mint(SECRET, "mallory", 60)
    origin, settings = ("Origin", ORIGIN), {"auth_cookie": "session"}
    for others in (f"xsession={mine}", f"Session={mine}", "session", "session=", f"x=session={mine}", ""):
        assert refused(origin, ("Cookie", others), **settings).outcome == "no_token"
    assert authenticate(origin, ("Cookie", "a=b"), ("Cookie", f"session={mine}"), **settings).user == "alice"
    assert authenticate(origin, ("Cookie", f"session={mine};session={mine}"), **settings).user == "alice"
    for pair in ((mine, other), (other, mine)):
        refusal = refused(origin, ("Cookie", "; ".join(f"session={value}" for value in pair)), **settings)
        assert (refusal.status, refusal.outcome) == (400, "bad_headers")


# While connected.


def test_a_fresh_token_replaces_the_old_one() -> None:
    guard = authenticator()
    old = authenticate(bearer(token(good_claims(join=["team:a"]))))
    fresh = at_once(guard.refresh(token(good_claims(exp=NOW + 5000, join=["team:b"], publish=[])), old))
    assert fresh == Identity("alice", NOW + 5000, ("team:b",), ())
    for bad, outcome in (
        (token(good_claims(sub="bob")), "bad_token"),
        (token(good_claims(exp=NOW - 60)), "expired"),
        (token(good_claims(), secret="another secret of 32 characters!"), "bad_token"),
        ("\ud800", "bad_token"),
    ):
        with pytest.raises(Refused) as info:
            at_once(guard.refresh(bad, old))
        assert (info.value.status, info.value.outcome) == (401, outcome)


@pytest.mark.filterwarnings("ignore:The HMAC key")
def test_the_secret_verifies_one_algorithm() -> None:
    for algorithm in ("HS384", "HS512"):
        assert "algorithm" in str(refused(bearer(jwt.encode(good_claims(), SECRET, algorithm))))


def test_an_empty_or_short_secret_verifies_nothing() -> None:
    """An empty or short key is never the secret."""
    for secret in (b"", b"\0", SECRET[:-1].encode(), f"{SECRET} ".encode()):
        assert refused(bearer(signed({"alg": "HS256"}, good_claims(), secret))).outcome == "bad_token"
