# SPDX-License-Identifier: MIT
"""`ws-server dev`: one process for developing an app, and a page to try it in."""

from __future__ import annotations

import json
import secrets
from importlib import resources
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr

from wsserver import __version__
from wsserver.auth import mint
from wsserver.settings import Settings, absent, load
from wsserver.telemetry import logs
from wsserver.transport import responses
from wsserver.worker.components import in_memory, in_redis
from wsserver.worker.worker import Worker

_TOKEN_TTL_S = 86400
_PORT = 8000
# From the port to that of the server API: 8000 and 9080.
_API_PORT_ABOVE = 1080
_LARGEST_PORT = 65535


def make_dev_worker(port: int | None) -> tuple[Worker, str]:
    """A worker on loopback, and a text that explains how to use it. Raises BadSettings.

    Missing settings get values for this run: the keys, the memory broker and the ports.
    """
    settings = _settings(port)
    logs.set_up(settings.log_level, instance=settings.instance or str(settings.port), version=__version__)
    web = resources.files("wsserver") / "web"
    pages = {
        "/": responses.page((web / "dev.html").read_bytes(), "text/html"),
        "/wsclient.js": responses.page((web / "wsclient.js").read_bytes(), "text/javascript"),
    }
    components = in_memory(settings) if settings.broker == "memory" else in_redis(settings)
    return Worker(settings, components, pages), _introduction(settings)


def _settings(port: int | None) -> Settings:
    keys = {name: SecretStr(secrets.token_hex(32)) for name in ("jwt_secret", "api_key")}
    chosen: dict[str, Any] = absent(port=_PORT, broker="memory", **keys) | ({} if port is None else {"PORT": port})
    settings = load(**chosen)
    api_port = settings.port + _API_PORT_ABOVE
    if api_port > _LARGEST_PORT:
        api_port = settings.port - _API_PORT_ABOVE
    own_pages = {f"http://{host}:{settings.port}" for host in ("localhost", "127.0.0.1")}
    return load(**chosen, **absent(api_port=api_port)).model_copy(
        update={"allowed_origins": settings.allowed_origins | own_pages}
    )


def _introduction(settings: Settings) -> str:
    assert settings.jwt_secret is not None
    assert settings.api_key is not None
    secret, key = settings.jwt_secret.get_secret_value(), settings.api_key.get_secret_value()
    tokens = {
        user: mint(secret, user, _TOKEN_TTL_S, issuer=settings.jwt_issuer, audience=settings.jwt_audience)
        for user in ("alice", "bob")
    }
    place = f"{_host(settings.listen_address[0])}:{settings.port}"
    api_place = f"{_host(settings.api_listen_address[0])}:{settings.api_port}"
    publish = json.dumps({"room": "lobby", "data": "hello"})
    lines = ["Open both of these, in two windows:"]
    for user, token in tokens.items():
        # In the fragment, which a browser does not send to any server.
        lines.append(f"  {user:6} http://{place}/#{urlencode({'user': user, 'token': token})}")
    lines += [
        "",
        f"An app connects to ws://{place}/ws with a token, for example with this header:",
        f"  Authorization: Bearer {tokens['alice']}",
        "A page of another origin connects if WS_ALLOWED_ORIGINS names the origin; the client for pages is at",
        f"  http://{place}/wsclient.js",
        "",
        "A backend signs tokens (HS256) with the secret, and uses the server API with the key:",
        f"  WS_JWT_SECRET={secret}",
        f"  WS_API_KEY={key}",
        "Set both, or any other WS_... setting, in the environment to choose them. This publishes:",
        f"  curl http://{api_place}/v1/publish -H 'Authorization: Bearer {key}' -d '{publish}'",
        "",
    ]
    return "\n".join(lines)


def _host(address: IPv4Address | IPv6Address) -> str:
    """The host of a URL that reaches a listener at `address` from this machine."""
    if address.is_unspecified:
        return "127.0.0.1"
    return f"[{address}]" if address.version == 6 else str(address)
