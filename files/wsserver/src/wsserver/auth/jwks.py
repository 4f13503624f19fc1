# SPDX-License-Identifier: MIT
"""The public keys that sign tokens: a JWKS document in a file or at a URL, read again when it
changes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import aiohttp
import jwt
import msgspec

from wsserver.auth.identity import CannotTell, Refused
from wsserver.telemetry.logs import log

# The algorithms that a token may be signed with, by the kind of key.
_ALGORITHMS: dict[tuple[str | None, str | None], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
_ACCEPTED = {algorithm for algorithms in _ALGORITHMS.values() for algorithm in algorithms}
_RSA_BITS_MIN = 2048
_BYTES_MAX = 262_144
_FETCH_TIMEOUT = aiohttp.ClientTimeout(total=5)
_RETRY_S = 10.0


class Key(NamedTuple):
    """A public key, and the algorithms that it verifies."""

    kid: str | None
    public: Any
    algorithms: Sequence[str]


class Source(Protocol):
    """Where the document is, and how often to read it.

    `interval_s`: the usual interval. `pause_s`: the shortest interval, when a token names an
    unknown key.
    """

    interval_s: float
    pause_s: float

    async def read(self) -> bytes | None:
        """The document; None if it has not changed.

        Raises OSError, TimeoutError, ClientError or ValueError.
        """


class FileSource:
    """A file, read when it has changed."""

    def __init__(self, path: Path, interval_s: float = 5) -> None:
        self.interval_s = interval_s
        self.pause_s = 0.0
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    async def read(self) -> bytes | None:
        seen, self._seen = self._seen, None
        status = os.stat(self._path)
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if status.st_size > _BYTES_MAX:
            raise ValueError(f"the file has more than {_BYTES_MAX} bytes")
        document = None if version == seen else self._path.read_bytes()
        self._seen = version
        return document


class UrlSource:
    def __init__(self, url: str, interval_s: float = 300, pause_s: float = 10) -> None:
        self.interval_s = interval_s
        self.pause_s = pause_s
        self._url = url

    async def read(self) -> bytes | None:
        document = b""
        # No compression, which has no bound, and no redirect, which may lead from https to http.
        async with (
            aiohttp.ClientSession(timeout=_FETCH_TIMEOUT, auto_decompress=False) as client,
            client.get(self._url, allow_redirects=False, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"the answer has status {answer.status}")
            async for chunk in answer.content.iter_any():
                document += chunk
                if len(document) > _BYTES_MAX:
                    raise ValueError(f"the answer has more than {_BYTES_MAX} bytes")
        return document


class Keys:
    """The keys of a source, from its last good state: if the source is unavailable or broken, they
    stay valid.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._keys: list[Key] = []
        self._problem: str | None = None
        self._looked = -source.pause_s
        self._looking: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the source was ever read."""
        return bool(self._keys)

    async def run(self) -> None:
        """Read the source at its interval, until cancelled."""
        while True:
            await self._look()
            interval_s = self._source.interval_s
            await asyncio.sleep(interval_s if self._problem is None else min(interval_s, _RETRY_S))

    async def find(self, kid: str | None, algorithm: object) -> Key:
        """The key for a token with this header.

        Waits only for an unknown key. Raises Refused, CannotTell, InvalidAlgorithmError.
        """
        if not isinstance(algorithm, str) or algorithm not in _ACCEPTED:
            raise jwt.InvalidAlgorithmError
        key = self._known(kid, algorithm)
        current = False
        if key is None and (kid is not None or not self._keys):
            current = await self._look()
            key = self._known(kid, algorithm)
        if key is not None:
            return key
        if not self._keys:
            raise CannotTell("the keys are not available", "no_keys")
        if kid is None:
            raise Refused(401, "the token is not valid: it names no key, and there are several", "bad_token")
        if not current:
            # The issuer may have published the key since the last read.
            raise CannotTell("the token is signed with a key that is not known here yet", "unknown_key")
        raise Refused(401, "the token is not valid: it is signed with a key that is not known here", "bad_token")

    def _known(self, kid: str | None, algorithm: str) -> Key | None:
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.kid == kid and algorithm in key.algorithms), None)

    async def _look(self) -> bool:
        """Read the source, never twice within `pause_s`.

        Callers that come meanwhile wait for the same read. Returns whether a read succeeded that
        began after the call, so that an unknown key is unknown to the source.
        """
        loop = asyncio.get_running_loop()
        begins = self._looking is None
        if self._looking is None:
            if loop.time() - self._looked < self._source.pause_s:
                return False
            self._looked = loop.time()
            # A separate task: the client that caused the read may hang up while others wait for it.
            self._looking = loop.create_task(self._take())
            self._looking.add_done_callback(self._done)
        await asyncio.shield(self._looking)
        return begins and self._problem is None

    def _done(self, _task: asyncio.Task[None]) -> None:
        self._looking = None

    async def _take(self) -> None:
        try:
            document = await self._source.read()
            if document is None:
                return
            keys = read_keys(document)
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as exc:
            problem = f"{type(exc).__name__}: {exc}"
            if problem != self._problem:
                log.error("keys_unavailable", error=problem, keys=len(self._keys))
            self._problem = problem
            return
        kids = [key.kid for key in keys]
        if self._problem is not None or kids != [key.kid for key in self._keys]:
            log.info("keys_loaded", kids=kids)
        self._keys, self._problem = keys, None


class _Document(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Member(msgspec.Struct, omit_defaults=True):
    """The public part of a key in a JWKS document (RFC 7517); other members are ignored."""

    kty: str
    kid: str | None = None
    use: str = "sig"
    alg: str | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


def read_keys(document: bytes) -> list[Key]:
    """The keys in a JWKS document that can verify tokens; ignores others.

    Raises ValueError if there are none.
    """
    try:
        members = msgspec.json.decode(document, type=_Document).keys
    except RecursionError:
        raise ValueError("nested too deeply") from None
    keys = [key for key in map(_key, members) if key is not None]
    if not keys:
        raise ValueError("the JWKS document has no key that can verify tokens")
    return keys


def _key(raw: msgspec.Raw) -> Key | None:
    try:
        member = msgspec.json.decode(raw, type=_Member)
    except (msgspec.MsgspecError, RecursionError):
        return None
    algorithms = _ALGORITHMS.get((member.kty, member.crv), ())
    if member.alg is not None:
        algorithms = tuple(algorithm for algorithm in algorithms if algorithm == member.alg)
    if member.use != "sig" or not algorithms:
        return None
    try:
        public = jwt.PyJWK(msgspec.to_builtins(member), algorithms[0]).key
    except (jwt.PyJWTError, TypeError, ValueError):
        return None
    if member.kty == "RSA" and public.key_size < _RSA_BITS_MIN:
        return None
    return Key(member.kid, public, algorithms)
