# SPDX-License-Identifier: MIT
"""`ws-server dev`: one process with the memory broker, and a page to try it in."""

from __future__ import annotations

import secrets
from importlib import resources
from urllib.parse import urlencode

from pydantic import SecretStr

from wsserver.auth import mint
from wsserver.settings import load
from wsserver.transport import responses
from wsserver.worker.components import in_memory
from wsserver.worker.worker import Worker

_TOKEN_TTL_S = 86400


def make_dev_worker(port: int) -> tuple[Worker, str]:
    """A worker on loopback with a secret of its own, and the text that tells how to use it."""
    secret = secrets.token_hex(32)
    origins = frozenset(f"http://{host}:{port}" for host in ("localhost", "127.0.0.1"))
    settings = load(PORT=port, broker="memory", jwt_secret=SecretStr(secret), allowed_origins=origins)
    web = resources.files("wsserver") / "web"
    pages = {
        "/": responses.page((web / "dev.html").read_bytes(), "text/html"),
        "/wsclient.js": responses.page((web / "wsclient.js").read_bytes(), "text/javascript"),
    }
    worker = Worker(settings, in_memory(settings), pages)
    return worker, _introduction(port, {user: mint(secret, user, _TOKEN_TTL_S) for user in ("alice", "bob")})


def _introduction(port: int, tokens: dict[str, str]) -> str:
    lines = ["Open both of these, in two windows:"]
    for user, token in tokens.items():
        # In the fragment, which a browser does not send to any server.
        lines.append(f"  {user:6} http://127.0.0.1:{port}/#{urlencode({'user': user, 'token': token})}")
    lines += ["", f"Or connect any client to ws://127.0.0.1:{port}/ws with this header:"]
    lines.append(f"  Authorization: Bearer {tokens['alice']}")
    return "\n".join(lines)
