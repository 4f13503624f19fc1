# SPDX-License-Identifier: MIT
"""Settings from the environment, all checked at start.

Types, defaults and bounds are defined only here. tools/settings_files.py generates the JSON schema,
docs/settings.md and the checks of the role ws_server from them.
"""

from __future__ import annotations

import difflib
import os
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import idna
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    IPvAnyAddress,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.asyncio.connection import parse_url

from wsserver.runtime import env_file

_PREFIX = "WS_"


def _list(value: Any) -> Any:
    return _parts(value) if isinstance(value, str) else value


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^][/?#@*%:\\\s]+)(?::([0-9]{1,5}))?", re.IGNORECASE)


def _as_browsers_send_it(origin: str) -> str:
    """Raises ValueError for what no browser sends, such as a wildcard in a name."""
    if origin == "*":
        return origin
    parts = _ORIGIN.fullmatch(origin)
    if parts is None:
        raise ValueError("not an origin")
    scheme, host, port = parts[1].lower(), parts[2].lower(), int(parts[3]) if parts[3] else None
    if port is not None and not 0 < port <= _LARGEST_PORT:
        raise ValueError("not a port")
    if host.startswith("["):
        host = f"[{_ipv6(IPv6Address(host[1:-1]))}]"
    elif re.fullmatch(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?", host):
        host = str(IPv4Address(host))
    elif not host.isascii():
        host = idna.encode(host, uts46=True).decode()
    return f"{scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(scheme)) else f":{port}")


def _ipv6(address: IPv6Address) -> str:
    """Browsers write no IPv4 address inside an IPv6 address."""
    mapped = address.ipv4_mapped
    return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}" if mapped else str(address)


_LARGEST_PORT = 65535
_SECRET_LENGTH = 32

Origin = Annotated[
    str, Field(pattern=r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://[^/\s?#*@]+)$"), AfterValidator(_as_browsers_send_it)
]
# A room's name in which * stands for any characters, and {sub} for the user.
Pattern = Annotated[str, Field(pattern=r"^[\x21-\x7e\u00a1-\U0010ffff]{1,128}$")]
Patterns = Annotated[tuple[Pattern, ...], NoDecode, BeforeValidator(_list)]
Addresses = Annotated[tuple[IPvAnyAddress, ...], Field(min_length=1), NoDecode, BeforeValidator(_list)]
Network = Annotated[IPv4Network | IPv6Network, WithJsonSchema({"type": "string", "format": "ipnetwork"})]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_list)]
Secret32 = Annotated[SecretStr, Field(min_length=_SECRET_LENGTH)]


def _postgres_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("not a postgresql:// URL")
    return value


def _redis_url(value: str) -> str:
    parse_url(value)
    return value


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", frozen=True)

    port: int = Field(8080, validation_alias="PORT", ge=1, le=65535, description="the TCP port")
    listen_address: Addresses = Field(
        (IPv4Address("127.0.0.1"),), description="the IP addresses to listen on, none of which the Internet reaches"
    )
    instance: str = Field(
        "", pattern=r"^[\w.-]*$", description="the worker's name in logs, of letters, digits, '.', '_' and '-'"
    )
    broker: Literal["redis", "memory"] = Field(
        "redis", description="where messages go (memory: one process, nothing kept)"
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        "redis://127.0.0.1:6379/0",
        description="where Redis is: unix:///run/redis/redis-server.sock or redis://ADDRESS:PORT/0, without a password",
    )
    redis_username: str | None = Field(None, min_length=1, description="the Redis ACL user")
    redis_password: SecretStr | None = Field(None, description="the Redis user's password")
    postgres_dsn: Annotated[SecretStr, AfterValidator(_postgres_url)] | None = Field(
        None, description="where Postgres is: a postgresql:// URL"
    )
    jwt_secret: Secret32 | None = Field(
        None, description="the key that signs tokens (HS256), for example from openssl rand -hex 32"
    )
    jwt_jwks: Annotated[str, Field(pattern=r"^(/|https://|http://(127\.0\.0\.1|localhost)[:/])")] | None = Field(
        None,
        description="the path of a JWKS file on the host, or its https URL, with the public keys that sign tokens "
        "(RS256, ES256, EdDSA)",
        examples=["https://id.example.org/jwks.json"],
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="the iss that every token must have")
    jwt_audience: str | None = Field(None, min_length=1, description="the aud that every token must have")
    auth_cookie: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="the name of the cookie that may hold a token, of letters, digits, _ and -",
    )
    default_join: Patterns = Field(
        ("*",),
        description="rooms, or patterns of rooms, that a token without a join claim may join",
        examples=["lobby", "team:*", "user:{sub}:*"],
    )
    default_publish: Patterns = Field(
        ("*",),
        description="rooms, or patterns of rooms, that a token without a publish claim may publish to",
        examples=["lobby", "user:{sub}"],
    )
    allowed_origins: Annotated[frozenset[Origin], NoDecode, BeforeValidator(_list)] = Field(
        frozenset(),
        description="origins of the web pages and apps that may connect, without a path or wildcard (* alone: all)",
        examples=["https://chat.example.org", "capacitor://localhost"],
    )
    durable_rooms: Patterns = Field(
        (),
        description="rooms, or patterns of rooms, whose publishes are acknowledged when Postgres has them",
        examples=["orders:*"],
    )
    archive_retention_days: int = Field(
        30, ge=0, le=36500, description="days that messages stay in Postgres (0: for ever)"
    )
    heartbeat_s: float = Field(25, ge=1, le=3600, description="seconds between two pings")
    max_message_bytes: int = Field(
        65536, ge=1024, le=16 * 2**20, description="the largest message from a client, in bytes"
    )
    room_log_length: int = Field(
        1000, ge=10, le=1_000_000, description="messages that each room keeps in Redis for resuming"
    )
    room_log_bytes: int = Field(
        8 * 2**20,
        ge=2**18,
        le=2**30,
        description="bytes of Redis's memory that each room's messages may take, about; fewer are kept beyond",
    )
    room_ttl_s: int = Field(7 * 86400, ge=3600, le=365 * 86400, description="seconds that Redis keeps an unused room")
    send_buffer_bytes: int = Field(
        262144,
        ge=16384,
        le=64 * 2**20,
        description="bytes that may wait for one client before it is fed from the room's log",
    )
    slow_client_s: float = Field(
        30, ge=1, le=3600, description="seconds that a client may leave a full buffer unread before it is closed"
    )
    handshake_s: float = Field(10, ge=1, le=60, description="seconds for a client's request")
    messages_per_s: float = Field(
        100, ge=1, le=100_000, description="messages a second from one connection (twice as many at once)"
    )
    bytes_per_s: int = Field(
        262144,
        ge=1024,
        le=2**30,
        description="bytes a second from one connection, pages sent to it included (twice as many at once)",
    )
    user_messages_per_s: float = Field(
        200, ge=1, le=1_000_000, description="publishes a second from one user over all workers"
    )
    user_bytes_per_s: int = Field(
        2**20, ge=1024, le=2**30, description="bytes a second that one user publishes over all workers"
    )
    user_queries_per_s: float = Field(
        100,
        ge=1,
        le=1_000_000,
        description="joins and requests for history, presence and a new token a second from one user over all workers",
    )
    max_connections: int = Field(20000, ge=1, le=1_000_000, description="connections of one worker")
    max_connections_per_user: int = Field(
        50, ge=1, le=1_000_000, description="connections of one user over all workers"
    )
    max_connections_per_ip: int = Field(
        500, ge=1, le=1_000_000, description="connections of one address (IPv6: one /64) over all workers"
    )
    ip_refusals_per_s: float = Field(
        20,
        ge=1,
        le=100_000,
        description="requests to connect a second of one address (IPv6: one /64) that a worker checks and refuses",
    )
    max_rooms_per_connection: int = Field(100, ge=1, le=10_000, description="rooms that one connection may be in")
    max_rooms_per_user: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="rooms that the connections of one user may be in over all workers, counted once for each of them",
    )
    max_connection_age_s: float = Field(
        21600, ge=10, le=30 * 86400, description="seconds after which a client is asked to reconnect"
    )
    api_listen_address: Addresses = Field(
        (IPv4Address("127.0.0.1"),),
        description="the IP addresses of the server API, none of which the Internet reaches",
    )
    api_port: int = Field(9080, ge=1, le=65535, description="the TCP port of the server API")
    api_key: Secret32 | None = Field(None, description="the key of the server API, which is not served without a key")
    api_clients: Networks = Field(
        (),
        description="IP addresses and networks that may use the server API, besides this host's loopback",
        examples=["10.0.0.20", "10.1.0.0/24"],
    )
    control_socket: Path | None = Field(None, description="the path of the control socket")
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = Field(
        None,
        description="the URL of the OTLP collector (over HTTP) that traces go to",
        examples=["http://127.0.0.1:4318"],
    )
    trace_ratio: float = Field(0.01, ge=0, le=1, description="the share of publishes that are traced")
    drain_window_s: float = Field(
        5, ge=0, le=600, description="seconds over which a stopping worker sends its clients away"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least severe level that is logged"
    )

    @model_validator(mode="after")
    def _some_key(self) -> Self:
        if self.jwt_secret is None and self.jwt_jwks is None:
            raise PydanticCustomError(
                "no_key", f"WS_JWT_SECRET is missing ({_SECRET_LENGTH} characters or more), and so is WS_JWT_JWKS"
            )
        return self

    @model_validator(mode="after")
    def _durable_where(self) -> Self:
        if self.durable_rooms and (self.postgres_dsn is None or self.broker == "memory"):
            raise PydanticCustomError(
                "no_archive",
                "WS_DURABLE_ROOMS needs Postgres: set WS_POSTGRES_DSN (and WS_BROKER=redis), or leave it empty",
            )
        return self


class BadSettings(Exception):
    """`problems`: one sentence for each variable, with its name, its value and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def load(**values: Any) -> Settings:
    """The settings of this process's environment; `values` replace some of them.

    Raises BadSettings.
    """
    problems = _unknown()
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        problems += dict.fromkeys(map(_problem, exc.errors()))  # pydantic has one error for each origin
    if problems:
        raise BadSettings(problems)
    return settings


def use_file(path: Path) -> None:
    """Replace this process's settings by those of an environment file as systemd reads it.

    Raises OSError.
    """
    for name in _given():
        del os.environ[name]
    os.environ.update(env_file.parse(path.read_text()))


def use_file_below(path: Path) -> None:
    """Add the settings of an environment file to those of the environment, which win.

    Raises OSError.

    The file may be missing if the environment has settings.
    """
    try:
        found = env_file.parse(path.read_text())
    except FileNotFoundError:
        if not _given():
            raise
        return
    for name, value in found.items():
        os.environ.setdefault(name, value)


def absent(**values: Any) -> dict[str, Any]:
    """The `values`, by field, that the environment does not set, as `load` takes them."""
    return {
        str(Settings.model_fields[field].validation_alias or field): value
        for field, value in values.items()
        if variable(field) not in os.environ
    }


def variable(field: str) -> str:
    """The environment variable of a field."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else (_PREFIX + field).upper()


def schema() -> dict[str, Any]:
    """The JSON schema of the settings: the properties are the environment variables.

    The environment has a list as text, separated by commas.
    """
    made = Settings.model_json_schema()["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The settings of a worker, as environment variables",
        "type": "object",
        "properties": {
            variable(field): _property(made[info.validation_alias or field])
            for field, info in Settings.model_fields.items()
        },
    }


def _property(made: dict[str, Any]) -> dict[str, Any]:
    """One setting: without pydantic's title, and without a null that only says that there is no
    default.
    """
    given = {key: value for key, value in made.items() if key not in ("title", "anyOf")}
    if "anyOf" not in made:
        return given
    [kind] = [kind for kind in made["anyOf"] if kind != {"type": "null"}]
    del given["default"]
    return {**kind, **given}


def requirement(setting: dict[str, Any], separator: str = ",") -> str:
    """The meaning and the allowed values of a setting, from its JSON schema.

    `separator` stands between the examples of a list.
    """
    parts = [setting["description"]]
    if "enum" in setting:
        *others, last = setting["enum"]
        parts.append(f": {', '.join(others)} or {last}")
    if "maximum" in setting:
        parts.append(f", {setting['minimum']} to {setting['maximum']}")
    if setting.get("minLength", 1) > 1:
        parts.append(f", at least {setting['minLength']} characters")
    if setting["type"] == "array" and separator == ",":
        parts.append(", separated by commas")
    if "examples" in setting:
        parts.append(f", like {separator.join(setting['examples'])}")
    return "".join(parts)


def _given() -> list[str]:
    return [name for name in os.environ if name.startswith(_PREFIX)]


def _unknown() -> list[str]:
    """A misspelt variable would silently leave its default in force."""
    known = {variable(field) for field in Settings.model_fields}
    problems = []
    for name in sorted(name for name in _given() if name not in known):
        meant = difflib.get_close_matches(name, known, 1)
        problems.append(f"{name} is not a setting" + (f"; did you mean {meant[0]}?" if meant else ""))
    return problems


def _problem(error: ErrorDetails) -> str:
    if not error["loc"]:
        return error["msg"]
    field = next(f for f in Settings.model_fields if error["loc"][0] in (f, variable(f)))
    name = variable(field)
    setting = schema()["properties"][name]
    if error["type"] == "missing":
        return f"{name} is missing; it must be {requirement(setting)}"
    shown = "(hidden)" if setting.get("writeOnly") else repr(os.environ.get(name, error["input"]))
    return f"{name} is {shown}; it must be {requirement(setting)}"
