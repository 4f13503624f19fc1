# SPDX-License-Identifier: MIT
from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import structlog
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from support.auth import SECRET, at_once, authenticator, bearer, good_claims, request, signed, token
from support.wait import until

from wsserver.auth import Authenticator, CannotTell, Identity, Refused, jwks, mint
from wsserver.auth.claims import Defaults
from wsserver.auth.jwks import FileSource, Keys, UrlSource, read_keys
from wsserver.auth.tokens import Tokens

RSA = rsa.generate_private_key(65537, 2048)
RSA_NEXT = rsa.generate_private_key(65537, 2048)
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str | None = "k", **members: Any) -> dict[str, Any]:
    family: Any = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    [algorithm] = [family[kind] for kind in family if isinstance(key, kind)]
    public = algorithm.to_jwk(key.public_key(), as_dict=True)
    public.pop("key_ops", None)
    return {**public, **({} if kid is None else {"kid": kid}), **members}


def document(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def sign(key: Any, algorithm: str, kid: str | None = "k", **claims: Any) -> str:
    return jwt.encode(good_claims(**claims), key, algorithm, {} if kid is None else {"kid": kid})


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.fixture
def jwks_file(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


@pytest.fixture
def check(jwks_file: Path) -> Callable[..., Any]:
    """The user of a token by the keys in the file, or the outcome of the refusal or the doubt."""

    async def check(text: str, *keys: dict[str, Any], **settings: Any) -> str:
        put(jwks_file, document(*keys))
        guard = authenticator(**{"jwt_secret": None, "jwt_jwks": str(jwks_file), **settings})
        return await outcome(guard, text)

    return check


async def outcome(guard: Authenticator, text: str) -> str:
    try:
        return (await guard.authenticate(request(bearer(text)))).user
    except (Refused, CannotTell) as refusal:
        told = any(len(part) > 3 and part in str(refusal) for part in text.split("."))
        return f"{refusal.outcome}, and the token with it" if told else refusal.outcome


# Which key, and which algorithm.


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA, "RS256"), (RSA, "RS384"), (RSA, "RS512"), (P256, "ES256"), (P384, "ES384"), (ED25519, "EdDSA")],
    ids=["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"],
)
async def test_every_algorithm(check: Any, key: Any, algorithm: str) -> None:
    good = sign(key, algorithm)
    assert await check(good, jwk(key)) == "alice"
    assert await check(good, jwk(key, alg=algorithm, use="sig")) == "alice"
    assert await check(good, jwk(RSA_NEXT, "other"), jwk(key)) == "alice"
    body, _dot, signature = good.rpartition(".")
    assert await check(f"{body}.{'A' * 86 if len(signature) == 86 else signature[::-1]}", jwk(key)) == "bad_token"
    assert await check(sign(key, algorithm, exp=1), jwk(key)) == "expired"


async def test_both_kinds_of_key_at_once(check: Any) -> None:
    both = {"jwt_secret": SecretStr(SECRET)}
    assert await check(mint(SECRET, "alice", 60), jwk(RSA), **both) == "alice"
    assert await check(sign(RSA, "RS256"), jwk(RSA), **both) == "alice"
    assert await check(mint("x" * 32, "alice", 60), jwk(RSA), **both) == "bad_token"


async def test_the_key_decides_the_algorithm(check: Any) -> None:
    public = RSA.public_key()
    spki = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    pkcs1 = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    known_to_all = [spki, spki.strip(), pkcs1, der, json.dumps(jwk(RSA)).encode(), jwk(RSA)["n"].encode(), b""]
    for settings in ({}, {"jwt_secret": SecretStr(SECRET)}):
        for secret in known_to_all:
            for algorithm in ("HS256", "HS384", "HS512", "RS256", "none", "hs256", ""):
                forged = signed({"alg": algorithm, "kid": "k"}, good_claims(), secret)
                assert await check(forged, jwk(RSA), **settings) == "bad_token"
        unsigned = jwt.encode(good_claims(), None, "none", {"kid": "k"})
        assert await check(unsigned, jwk(RSA), **settings) == "bad_token"
        for header in ({"alg": ["RS256"]}, {"alg": {}}, {"alg": None}, {}, {"alg": "RS256", "kid": 7}):
            assert await check(signed(header, good_claims(), b"x"), jwk(RSA), **settings) == "bad_token"
    # The document itself may hold a secret; it verifies nothing.
    shared = {"kty": "oct", "kid": "k", "k": "c2VjcmV0" * 8}
    forged = signed({"alg": "HS256", "kid": "k"}, good_claims(), b"secret" * 8)
    assert await check(forged, shared, jwk(RSA, "other")) == "bad_token"


async def test_a_key_verifies_its_own_algorithm_only(check: Any) -> None:
    assert await check(sign(RSA, "RS512"), jwk(RSA, alg="RS256")) == "bad_token"
    assert await check(sign(RSA, "PS256"), jwk(RSA)) == "bad_token"
    assert await check(sign(P384, "ES384"), jwk(P256)) == "bad_token"
    assert await check(sign(RSA, "RS256", None), jwk(P256)) == "bad_token"
    assert await check(sign(RSA, "RS256"), jwk(RSA, use="enc"), jwk(P256, "other")) == "bad_token"


async def test_a_token_that_names_no_key(check: Any) -> None:
    unnamed = sign(RSA, "RS256", None)
    assert await check(unnamed, jwk(RSA)) == "alice"
    assert await check(unnamed, jwk(RSA, None), jwk(P256, use="enc")) == "alice"
    assert await check(unnamed, jwk(RSA), jwk(P256, "other")) == "bad_token"
    assert await check(sign(RSA, "RS256", "other"), jwk(RSA)) == "bad_token"
    assert await check(sign(RSA, "RS256", "k"), jwk(RSA, None)) == "bad_token"


async def test_two_kinds_of_key_may_share_a_name(check: Any) -> None:
    for good in (sign(RSA, "RS256"), sign(P256, "ES256")):
        assert await check(good, jwk(P256), jwk(RSA)) == "alice"


async def test_issuer_audience_and_permissions_are_those_of_every_token(check: Any) -> None:
    strict = {"jwt_issuer": "https://id.example.org", "jwt_audience": "chat"}
    assert await check(sign(RSA, "RS256", iss="https://id.example.org", aud="chat"), jwk(RSA), **strict) == "alice"
    assert await check(sign(RSA, "RS256", iss="https://id.example.org", aud="mail"), jwk(RSA), **strict) == "bad_token"
    assert await check(sign(RSA, "RS256", join="*"), jwk(RSA)) == "bad_token"


# The document.

_members = st.sampled_from(["kty", "kid", "alg", "use", "crv", "n", "e", "x", "y", "d"])
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["RSA", "EC", "OKP", "P-256"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.lists(_values | st.dictionaries(_members, _values, max_size=8), max_size=3),
    st.sampled_from([RSA, P256, ED25519]),
    st.dictionaries(_members, _values, max_size=2),
)
def test_invalid_keys_are_ignored(others: list[Any], key: Any, changes: dict[str, Any]) -> None:
    good = jwk(P384, "good")
    assert any(key.kid == "good" for key in read_keys(document(*others, {**jwk(key), **changes}, good)))


@given(st.binary(max_size=60) | _values.map(lambda value: json.dumps(value).encode()))
def test_invalid_documents(text: bytes) -> None:
    for nonsense in (text, b'{"keys":' + text + b"}", b"[" * 100_000, document()):
        with pytest.raises(ValueError, match=r"\S"):
            read_keys(nonsense)


def test_a_private_key_in_the_document_is_taken_for_its_public_part() -> None:
    private = jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True)
    [key] = read_keys(document({**private, "kid": "k"}))
    assert key.public == RSA.public_key()


def test_a_weak_key_is_ignored() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.raises(ValueError, match="no key that can verify"):
        read_keys(document(jwk(weak)))


# A file.


async def test_a_file_is_read_again_when_it_changes(jwks_file: Path) -> None:
    guard = authenticator(jwt_secret=None, jwt_jwks=str(jwks_file))
    first, second = sign(RSA, "RS256", "1"), sign(RSA_NEXT, "RS256", "2")
    assert await outcome(guard, first) == "no_keys"
    put(jwks_file, document(jwk(RSA, "1")))
    assert await outcome(guard, first) == "alice"
    assert await outcome(guard, second) == "bad_token"
    # As a careful operator does it: replace the file.
    replacement = jwks_file.with_suffix(".new")
    put(replacement, document(jwk(RSA_NEXT, "2")))
    os.replace(replacement, jwks_file)
    assert await outcome(guard, second) == "alice"
    assert await outcome(guard, first) == "bad_token"


async def test_a_broken_or_missing_file_leaves_the_keys_valid(jwks_file: Path) -> None:
    guard = authenticator(jwt_secret=None, jwt_jwks=str(jwks_file))
    put(jwks_file, document(jwk(RSA)))
    assert await outcome(guard, sign(RSA, "RS256")) == "alice"
    for breakage in (b"{", b"", document(), b"[" * 300_000):
        put(jwks_file, breakage)
        assert await outcome(guard, sign(RSA_NEXT, "RS256", "next")) == "unknown_key"
        assert await outcome(guard, sign(RSA, "RS256")) == "alice"
    await asyncio.to_thread(jwks_file.unlink)
    assert await outcome(guard, sign(RSA_NEXT, "RS256", "next")) == "unknown_key"
    assert await outcome(guard, sign(RSA, "RS256")) == "alice"
    put(jwks_file, document(jwk(RSA_NEXT, "next")))
    assert await outcome(guard, sign(RSA_NEXT, "RS256", "next")) == "alice"


async def test_a_removed_key_becomes_invalid_without_a_request(jwks_file: Path) -> None:
    keys = Keys(FileSource(jwks_file, interval_s=0.02))
    put(jwks_file, document(jwk(RSA, "1"), jwk(P256, "2")))
    running = asyncio.create_task(keys.run())
    assert (await keys.find("1", "RS256")).kid == "1"
    put(jwks_file, document(jwk(P256, "2")))
    await until(lambda: keys._known("1", "RS256") is None)
    running.cancel()


async def test_a_broken_file_and_its_repair_are_logged_once(jwks_file: Path) -> None:
    keys = Keys(FileSource(jwks_file, interval_s=0.01))
    with structlog.testing.capture_logs() as lines:
        running = asyncio.create_task(keys.run())
        await until(lambda: lines)
        await asyncio.sleep(0.1)
        put(jwks_file, document(jwk(RSA)))
        await until(lambda: len(lines) > 1)
        await asyncio.sleep(0.1)
        running.cancel()
    assert [line["event"] for line in lines] == ["keys_unavailable", "keys_loaded"]
    assert lines[0]["log_level"] == "error"
    assert lines[1]["kids"] == ["k"]


async def test_a_file_that_is_back_unchanged_is_logged_as_repaired(jwks_file: Path) -> None:
    keys, elsewhere = Keys(FileSource(jwks_file, interval_s=0.01)), jwks_file.with_suffix(".away")
    put(jwks_file, document(jwk(RSA)))
    with structlog.testing.capture_logs() as lines:
        running = asyncio.create_task(keys.run())
        await until(lambda: len(lines) == 1)
        os.rename(jwks_file, elsewhere)
        await until(lambda: len(lines) == 2)
        os.rename(elsewhere, jwks_file)
        await until(lambda: len(lines) == 3)
        running.cancel()
    assert [line["event"] for line in lines] == ["keys_loaded", "keys_unavailable", "keys_loaded"]


# A URL.


class KeyServer:
    """The JWKS of an identity provider, with a count of requests."""

    def __init__(self) -> None:
        self.asked = 0
        self.url = ""
        self.answer: Callable[[], Awaitable[web.StreamResponse]] = self.serve(jwk(RSA))

    def serve(self, *keys: dict[str, Any], status: int = 200) -> Callable[[], Awaitable[web.StreamResponse]]:
        return self.body(document(*keys), status)

    def body(self, body: bytes, status: int = 200, **headers: str) -> Callable[[], Awaitable[web.StreamResponse]]:
        async def answer() -> web.StreamResponse:
            return web.Response(body=body, status=status, headers=headers)

        return answer

    async def __call__(self, _request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        return await self.answer()


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    provider = KeyServer()
    runner = web.ServerRunner(web.Server(provider), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield provider
    await runner.cleanup()


def tokens(url: str, **timing: float) -> Tokens:
    return Tokens(None, Keys(UrlSource(url, **timing)), None, None, Defaults(("*",), ("*",)))


async def verify(subject: Tokens, text: str) -> str:
    try:
        return (await subject.verify(text)).user
    except (Refused, CannotTell) as refusal:
        return refusal.outcome


async def test_the_keys_of_a_url(server: KeyServer) -> None:
    guard = authenticator(jwt_secret=None, jwt_jwks=server.url)
    assert await outcome(guard, sign(RSA, "RS256")) == "alice"
    for _ in range(20):
        # From now on a token of this key needs no waiting.
        assert isinstance(at_once(guard.authenticate(request(bearer(sign(RSA, "RS256"))))), Identity)
    assert server.asked == 1


async def test_keys_rotate(server: KeyServer) -> None:
    subject = tokens(server.url, interval_s=0.02, pause_s=0)
    running = asyncio.create_task(subject.run())
    old, new = sign(RSA, "RS256", "1"), sign(RSA_NEXT, "RS256", "2")
    server.answer = server.serve(jwk(RSA, "1"))
    await until_verified(subject, old, "alice")
    server.answer = server.serve(jwk(RSA, "1"), jwk(RSA_NEXT, "2"))
    await until_verified(subject, new, "alice")
    assert await verify(subject, old) == "alice"
    server.answer = server.serve(jwk(RSA_NEXT, "2"))
    await until_verified(subject, old, "bad_token")
    assert await verify(subject, new) == "alice"
    running.cancel()


async def until_verified(subject: Tokens, text: str, outcome: str) -> None:
    async with asyncio.timeout(30):
        while await verify(subject, text) != outcome:  # noqa: ASYNC110 - the keys come through a socket
            await asyncio.sleep(0.02)


async def test_an_unknown_key_is_fetched_at_once_and_then_not_for_a_while(server: KeyServer) -> None:
    keys = Keys(UrlSource(server.url))
    subject = Tokens(None, keys, None, None, Defaults(("*",), ("*",)))
    assert await verify(subject, sign(RSA, "RS256")) == "alice"
    keys._looked -= 10  # as if so many seconds had passed
    assert await verify(subject, sign(P256, "ES256", "another user's bogus key")) == "bad_token"
    assert server.asked == 2
    server.answer = server.serve(jwk(RSA_NEXT, "next"))
    # The key may be newer than the last fetch, so this is no refusal.
    assert await verify(subject, sign(RSA_NEXT, "RS256", "next")) == "unknown_key"
    assert server.asked == 2
    keys._looked -= 10
    assert await verify(subject, sign(RSA_NEXT, "RS256", "next")) == "alice"
    for number in range(100):
        assert await verify(subject, sign(P256, "ES256", f"unknown {number}")) == "unknown_key"
    assert server.asked <= 4


async def test_only_a_fetch_that_began_later_proves_that_a_key_is_unknown(server: KeyServer) -> None:
    subject = tokens(server.url, pause_s=0)
    assert await verify(subject, sign(RSA, "RS256")) == "alice"
    release = asyncio.Event()

    async def slow() -> web.StreamResponse:
        body = document(jwk(RSA))
        await release.wait()
        return web.Response(body=body)

    server.answer = slow
    first = asyncio.create_task(verify(subject, sign(P256, "ES256", "unknown")))
    await until(lambda: server.asked == 2)
    second = asyncio.create_task(verify(subject, sign(RSA_NEXT, "RS256", "next")))
    await asyncio.sleep(0)
    release.set()
    assert [await first, await second] == ["bad_token", "unknown_key"]
    assert server.asked == 2


async def test_garbage_causes_no_fetch(server: KeyServer) -> None:
    subject = tokens(server.url, pause_s=0)
    for text in ("a.b.c", token(good_claims(), kid="x"), token(good_claims(), kid="x", alg="none")):
        assert await verify(subject, text) == "bad_token"
    assert server.asked == 0
    assert await verify(subject, sign(RSA, "RS256")) == "alice"


async def test_a_stampede_makes_one_fetch(server: KeyServer) -> None:
    subject = tokens(server.url)
    release = asyncio.Event()

    async def slow() -> web.StreamResponse:
        await release.wait()
        return web.Response(body=document(jwk(RSA)))

    server.answer = slow
    asking = [asyncio.create_task(verify(subject, sign(RSA, "RS256"))) for _ in range(200)]
    await until(lambda: server.asked)
    # The client that caused the fetch hangs up.
    asking.pop(0).cancel()
    release.set()
    assert set(await asyncio.gather(*asking)) == {"alice"}
    assert server.asked == 1


async def test_bad_answers_of_a_url_leave_the_keys_valid(server: KeyServer) -> None:
    subject = tokens(server.url, pause_s=0)
    good, unknown = sign(RSA, "RS256"), sign(RSA_NEXT, "RS256", "next")
    assert await verify(subject, good) == "alice"

    async def cut() -> web.StreamResponse:
        raise ConnectionResetError

    real = document(jwk(RSA_NEXT, "next"))

    async def redirect() -> web.StreamResponse:
        server.answer = server.body(real)
        return web.Response(status=302, headers={"Location": server.url})

    for answer in (
        server.body(real, 500),
        server.body(real, 404),
        redirect,
        server.body(b"<html>"),
        server.body(b"{}"),
        server.serve(),
        server.body(real + b" " * 300_000),
        server.body(gzip.compress(real), **{"Content-Encoding": "gzip"}),
        cut,
    ):
        before, server.answer = server.asked, answer
        assert await verify(subject, unknown) == "unknown_key"
        assert server.asked > before
        assert await verify(subject, good) == "alice"
    server.answer = server.body(real)
    assert await verify(subject, unknown) == "alice"


async def test_a_silent_url_times_out(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_FETCH_TIMEOUT", aiohttp.ClientTimeout(total=0.2))

    async def silent() -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    server.answer = silent
    async with asyncio.timeout(20):
        assert await verify(tokens(server.url), sign(RSA, "RS256")) == "no_keys"


async def test_a_server_starts_without_its_keys_and_loads_them_later(server: KeyServer) -> None:
    answer, server.answer = server.answer, server.body(b"", 503)
    subject = tokens(server.url, interval_s=0.02, pause_s=0)
    with structlog.testing.capture_logs() as lines:
        running = asyncio.create_task(subject.run())
        await until(lambda: server.asked > 2)
        assert await verify(subject, sign(RSA, "RS256")) == "no_keys"
        server.answer = answer
        await until(lambda: len(lines) > 1)
        assert isinstance(at_once(subject.verify(sign(RSA, "RS256"))), Identity)
        running.cancel()
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("keys_unavailable", "error"),
        ("keys_loaded", "info"),
    ]


async def test_a_secret_needs_no_background_task() -> None:
    async with asyncio.timeout(30):
        await authenticator().run()
