# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsserver import settings
from wsserver.settings import BadSettings

SECRET = "a secret of at least 32 characters"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("WS_") or name == "PORT":
            monkeypatch.delenv(name)
    monkeypatch.setenv("WS_JWT_SECRET", SECRET)
    return monkeypatch


def problems() -> list[str]:
    with pytest.raises(BadSettings) as bad:
        settings.load()
    return bad.value.problems


def test_the_defaults_need_a_secret_only(environment: pytest.MonkeyPatch) -> None:
    chosen = settings.load()
    assert (chosen.port, [*map(str, chosen.listen_address)], chosen.heartbeat_s) == (8080, ["127.0.0.1"], 25)
    assert (chosen.max_message_bytes, chosen.drain_window_s, chosen.log_level) == (65536, 5, "info")
    assert chosen.allowed_origins == frozenset()
    environment.delenv("WS_JWT_SECRET")
    [problem] = problems()
    assert problem.startswith("WS_JWT_SECRET is missing")
    assert "32 characters" in problem


def test_durable_rooms_need_postgres(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WS_DURABLE_ROOMS", "orders:*")
    [problem] = problems()
    assert "WS_DURABLE_ROOMS needs Postgres: set WS_POSTGRES_DSN" in problem
    environment.setenv("WS_POSTGRES_DSN", "postgresql://app@/ws")
    assert settings.load().durable_rooms == ("orders:*",)
    environment.setenv("WS_BROKER", "memory")
    [problem] = problems()
    assert "WS_BROKER=redis" in problem


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "0", "1 to 65535"),
        ("PORT", "65536", "1 to 65535"),
        ("PORT", "http", "1 to 65535"),
        ("WS_LISTEN_ADDRESS", "localhost", "IP address"),
        ("WS_LISTEN_ADDRESS", "127.0.0.1,everywhere", "IP address"),
        ("WS_LISTEN_ADDRESS", "", "IP address"),
        ("WS_INSTANCE", "a b", "letters, digits"),
        ("WS_BROKER", "kafka", "redis or memory"),
        ("WS_REDIS_URL", "http://127.0.0.1", "unix://"),
        ("WS_REDIS_URL", "redis://127.0.0.1:port/0", "redis://ADDRESS:PORT"),
        ("WS_REDIS_URL", "", "redis://ADDRESS:PORT"),
        ("WS_REDIS_USERNAME", "", "ACL user"),
        ("WS_ALLOWED_ORIGINS", "https://good.example,chat.example.org", "separated by commas"),
        ("WS_ALLOWED_ORIGINS", "https://chat.example.org/", "https://chat.example.org"),
        ("WS_ALLOWED_ORIGINS", "https://*.example.org", "without a path or wildcard"),
        ("WS_ALLOWED_ORIGINS", "https://chat.example.org:*", "without a path or wildcard"),
        ("WS_ALLOWED_ORIGINS", "https://chat.example.org:0", "like https://chat.example.org"),
        ("WS_ALLOWED_ORIGINS", "https://chat.example.org:65536", "like https://chat.example.org"),
        ("WS_ALLOWED_ORIGINS", "https://user@chat.example.org", "like https://chat.example.org"),
        ("WS_ALLOWED_ORIGINS", "https://[2001:db8::x]", "like https://chat.example.org"),
        ("WS_ALLOWED_ORIGINS", "https://2001:db8::1", "like https://chat.example.org"),
        ("WS_ALLOWED_ORIGINS", "http://127.1", "like https://chat.example.org"),
        ("WS_ALLOWED_ORIGINS", "https://\u2028.example", "like https://chat.example.org"),
        ("WS_ALLOWED_ORIGINS", "null", "like https://chat.example.org"),
        ("WS_HEARTBEAT_S", "0.5", "1 to 3600"),
        ("WS_HEARTBEAT_S", "nan", "1 to 3600"),
        ("WS_HEARTBEAT_S", "inf", "1 to 3600"),
        ("WS_HEARTBEAT_S", "25s", "1 to 3600"),
        ("WS_MAX_MESSAGE_BYTES", "64k", "1024 to 16777216"),
        ("WS_MAX_MESSAGE_BYTES", "1023", "1024 to 16777216"),
        ("WS_ROOM_LOG_LENGTH", "9", "10 to 1000000"),
        ("WS_ROOM_TTL_S", "1", "3600 to 31536000"),
        ("WS_SEND_BUFFER_BYTES", "1", "16384 to 67108864"),
        ("WS_SLOW_CLIENT_S", "0", "1 to 3600"),
        ("WS_DRAIN_WINDOW_S", "-1", "0 to 600"),
        ("WS_LOG_LEVEL", "verbose", "debug, info, warning or error"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(
    environment: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    environment.setenv(name, value)
    [problem] = problems()
    assert problem.startswith(f"{name} is {value!r}; it must be ")
    assert allowed in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [("WS_JWT_SECRET", "too short"), ("WS_POSTGRES_DSN", "mysql://app:hunter2@db/ws"), ("WS_POSTGRES_DSN", "hunter2")],
)
def test_secrets_are_hidden(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    [problem] = problems()
    assert problem.startswith(f"{name} is (hidden); it must be ")
    assert value not in problem
    assert "hunter2" not in problem
    environment.setenv(name, SECRET if name == "WS_JWT_SECRET" else "postgresql://app:hunter2@db/ws")
    environment.setenv("WS_REDIS_PASSWORD", "hunter2")
    chosen = settings.load()
    assert "hunter2" not in f"{chosen!r} {chosen}"
    assert SECRET not in f"{chosen!r} {chosen}"


def test_all_problems_are_reported_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PORT", "x")
    environment.setenv("WS_LOG_LEVEL", "x")
    environment.setenv("WS_ALLOWED_ORIGINS", "x,y,z")
    environment.setenv("WS_HEARTBAET_S", "10")
    named = [problem.split(" ")[0] for problem in problems()]
    assert sorted(named) == ["PORT", "WS_ALLOWED_ORIGINS", "WS_HEARTBAET_S", "WS_LOG_LEVEL"]


def test_an_unknown_variable_suggests_a_known_one(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WS_HEARTBEATS", "10")
    assert problems() == ["WS_HEARTBEATS is not a setting; did you mean WS_HEARTBEAT_S?"]
    environment.delenv("WS_HEARTBEATS")
    environment.setenv("WS_QQQQQQQQ", "10")
    assert problems() == ["WS_QQQQQQQQ is not a setting"]


def test_origins(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WS_ALLOWED_ORIGINS", " https://A.example , http://localhost:3000,")
    assert settings.load().allowed_origins == {"https://a.example", "http://localhost:3000"}
    for given, sent in (
        ("https://chat.example.org:443", "https://chat.example.org"),
        ("HTTP://localhost:80", "http://localhost"),
        ("https://chat.example.org:8443", "https://chat.example.org:8443"),
        ("http://localhost:443", "http://localhost:443"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://straße.example", "https://xn--strae-oqa.example"),
        ("https://[2001:0DB8:0:0:0:0:0:1]:443", "https://[2001:db8::1]"),
        ("https://[::ffff:192.0.2.1]", "https://[::ffff:c000:201]"),
        ("http://192.0.2.1:3000", "http://192.0.2.1:3000"),
        ("http://my_host", "http://my_host"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ):
        environment.setenv("WS_ALLOWED_ORIGINS", given)
        assert settings.load().allowed_origins == {sent}
    environment.setenv("WS_ALLOWED_ORIGINS", "*")
    assert settings.load().allowed_origins == {"*"}
    environment.setenv("WS_ALLOWED_ORIGINS", "")
    assert settings.load().allowed_origins == frozenset()


def test_a_file_takes_the_place_of_the_environment(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("WS_LOG_LEVEL", "error")
    path = tmp_path / "env"
    path.write_text(f"# comment\nWS_JWT_SECRET='{SECRET} #$x'\nWS_HEARTBEAT_S=30\n")
    settings.use_file(path)
    chosen = settings.load()
    assert chosen.jwt_secret is not None
    assert chosen.jwt_secret.get_secret_value() == f"{SECRET} #$x"
    assert (chosen.heartbeat_s, chosen.log_level) == (30, "info")
