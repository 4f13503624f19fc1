# SPDX-License-Identifier: MIT
"""Workers that verify tokens with public keys, while the server of the keys is unavailable."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from support.ports import free_port
from support.worker import Worker
from websockets.exceptions import InvalidStatus

Start = Callable[..., Worker]

_KEYS = {kid: ed25519.Ed25519PrivateKey.generate() for kid in ("old", "new")}


def write_keys(path: Path, *kids: str) -> None:
    keys = [jwt.algorithms.OKPAlgorithm.to_jwk(_KEYS[kid].public_key(), as_dict=True) | {"kid": kid} for kid in kids]
    path.write_text(json.dumps({"keys": keys}))


def bearer(kid: str) -> dict[str, str]:
    claims = {"sub": "alice", "exp": int(time.time()) + 600}
    return {"Authorization": f"Bearer {jwt.encode(claims, _KEYS[kid], 'EdDSA', {'kid': kid})}"}


async def status(worker: Worker, kid: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await worker.connect(additional_headers=bearer(kid))
    return refused.value.response.status_code


async def test_a_worker_without_keys_is_not_ready_and_refuses_no_client_for_good(start: Start, tmp_path: Path) -> None:
    """An unavailable key server at start: the file stands for it."""
    path = tmp_path / "jwks.json"
    api_port, api_key = free_port(), "an API key of at least 32 characters"
    systemd = tmp_path / "notify"
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(systemd))
    told.settimeout(60)
    worker = start(
        WS_JWT_SECRET="",
        WS_JWT_JWKS=str(path),
        WS_API_KEY=api_key,
        WS_API_PORT=str(api_port),
        NOTIFY_SOCKET=str(systemd),
    )
    async with asyncio.timeout(60):
        while "the keys of tokens are not available" not in (await worker.http("/readyz"))[1]:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)
    assert await status(worker, "old") == 503
    # It serves backends, and systemd does not restart it, which would bring no keys.
    while b"READY=1" not in told.recv(4096):
        pass
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {api_key}"}) as backend:
        url = f"http://127.0.0.1:{api_port}/v1/publish"
        async with backend.post(url, json={"room": "r", "data": 1, "from": "backend"}) as answer:
            assert answer.status == 200
    write_keys(path, "old")
    await worker.ready()
    told.close()
    await worker.client(additional_headers=bearer("old"))


async def test_with_a_secret_as_well_the_worker_is_ready_and_tokens_of_unknown_keys_wait(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    worker = await start(WS_JWT_JWKS=str(path)).ready()
    await worker.client()
    assert await status(worker, "old") == 503
    write_keys(path, "old")
    client = await worker.client(additional_headers=bearer("old"))
    assert await status(worker, "new") == 401
    path.write_text("{")
    assert await status(worker, "new") == 503
    await client.send(type="auth", token=bearer("new")["Authorization"].removeprefix("Bearer "))
    assert (await client.event("error"))["code"] == "unavailable"
    samples = await worker.metrics()
    outcomes = [samples[f'ws_auth_total{{outcome="{name}"}}'] for name in ("no_keys", "unknown_key", "bad_token")]
    assert outcomes == [1, 1, 1]
