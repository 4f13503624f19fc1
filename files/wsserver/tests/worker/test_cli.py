# SPDX-License-Identifier: MIT
"""The command `ws-server`, as operators and developers run it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import jwt
import pytest
from support.dev import ws_server_dev
from support.worker import SECRET, Client, environment, free_port, ws_server
from websockets.asyncio.client import connect

from wsserver import __version__, settings


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / "env"
    path.write_text(f"WS_JWT_SECRET='{SECRET}'\n")
    return path


def test_version() -> None:
    command = [sys.executable, "-m", "wsserver", "--version"]
    assert subprocess.check_output(command, env=environment(), text=True, timeout=60) == f"{__version__}\n"


def test_ctl_does_not_import_a_worker() -> None:
    heavy = {"aiohttp", "asyncpg", "opentelemetry", "pydantic", "redis", "uvloop"}
    program = f"import sys, wsserver.cli; sys.exit(sorted({heavy} & sys.modules.keys()) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bad_arguments_print_the_usage() -> None:
    for arguments in ([], ["nonsense"], ["token"], ["dev", "--port", "x"]):
        done = ws_server(*arguments)
        assert done.returncode == 2
        assert "usage: ws-server" in done.stderr


def test_serve_names_a_bad_setting() -> None:
    done = ws_server("serve", WS_JWT_SECRET=SECRET, PORT="80x")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "ws-server: PORT is '80x'; it must be the TCP port, 1 to 65535\n"


def test_check_settings(env_file: Path) -> None:
    good = ws_server("check-settings", "--env-file", str(env_file))
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    env_file.write_text("WS_JWT_SECRET=short\nWS_HEARTBEAT_S=0\n")
    bad = ws_server("check-settings", "--env-file", str(env_file), WS_JWT_SECRET=SECRET)
    assert bad.returncode == 2
    assert sorted(line.split(" ")[1] for line in bad.stderr.splitlines()) == ["WS_HEARTBEAT_S", "WS_JWT_SECRET"]
    missing = ws_server("check-settings", "--env-file", "/nowhere/env")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
    assert "/nowhere/env" in missing.stderr


def test_token(env_file: Path) -> None:
    done = ws_server("token", "alice", "--ttl", "60", "--env-file", str(env_file))
    token = done.stdout.strip()
    assert jwt.decode(token, SECRET, ["HS256"])["sub"] == "alice"
    assert done.stderr == ""


def test_a_token_has_the_claims_that_the_settings_require(env_file: Path) -> None:
    env_file.write_text(f"{env_file.read_text()}WS_JWT_ISSUER=https://id.example.org\nWS_JWT_AUDIENCE=chat\n")
    token = ws_server("token", "alice", "--env-file", str(env_file)).stdout.strip()
    claims = jwt.decode(token, SECRET, ["HS256"], issuer="https://id.example.org", audience="chat")
    assert claims["sub"] == "alice"


def test_the_environment_has_the_settings_without_a_file() -> None:
    assert ws_server("check-settings", WS_JWT_SECRET=SECRET).returncode == 0
    bad = ws_server("check-settings", WS_JWT_SECRET=SECRET, WS_HEARTBEAT_S="0")
    assert bad.returncode == 2
    assert bad.stderr == "ws-server: WS_HEARTBEAT_S is '0'; it must be seconds between two pings, 1 to 3600\n"
    done = ws_server("token", "alice", WS_JWT_SECRET=SECRET, WS_JWT_ISSUER="https://id.example.org")
    assert jwt.decode(done.stdout.strip(), SECRET, ["HS256"], issuer="https://id.example.org")["sub"] == "alice"


def test_the_environment_wins_over_the_file_of_a_worker_host(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WS_")]:
        monkeypatch.delenv(name)
    with pytest.raises(FileNotFoundError):
        settings.use_file_below(env_file.with_name("none"))
    env_file.write_text(f"WS_JWT_SECRET='{SECRET}'\nWS_HEARTBEAT_S=7\n")
    monkeypatch.setenv("WS_JWT_SECRET", SECRET[::-1])
    monkeypatch.setenv("WS_HEARTBEAT_S", "")  # so that monkeypatch restores the variable that the file sets
    monkeypatch.delenv("WS_HEARTBEAT_S")
    settings.use_file_below(env_file)
    chosen = settings.load()
    assert chosen.jwt_secret is not None
    assert (chosen.jwt_secret.get_secret_value(), chosen.heartbeat_s) == (SECRET[::-1], 7)
    settings.use_file_below(env_file.with_name("none"))


def test_migrate_without_a_database(env_file: Path) -> None:
    done = ws_server("migrate", "--env-file", str(env_file))
    assert done.returncode == 2
    assert done.stderr == "ws-server: WS_POSTGRES_DSN is missing; it must be a postgresql:// URL\n"


def test_dev_refuses_a_bad_port() -> None:
    done = ws_server("dev", "--port", "99999")
    assert done.returncode == 2
    assert done.stderr == "ws-server: PORT is 99999; it must be the TCP port, 1 to 65535\n"


async def test_dev(tmp_path: Path) -> None:
    output = tmp_path / "output"
    async with ws_server_dev(output) as (port, tokens):
        assert list(tokens) == ["alice", "bob"]
        for path, content_type, part in (
            ("/", "text/html", b"<title>ws-server dev</title>"),
            ("/wsclient.js", "text/javascript", b"export class Client"),
        ):
            page = await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}{path}", timeout=20)
            assert page.headers["Content-Type"] == f"{content_type}; charset=utf-8"
            assert part in page.read()
        clients = []
        for user, token in tokens.items():
            # As the page does it.
            connection = await connect(
                f"ws://127.0.0.1:{port}/ws",
                subprotocols=["bearer", token],  # type: ignore[list-item]
                origin=f"http://127.0.0.1:{port}",  # type: ignore[arg-type]
                proxy=None,
            )
            assert connection.subprotocol == "bearer"
            client = Client(connection)
            assert (await client.event("welcome"))["user"] == user
            await client.join("lobby")
            await client.send(type="presence", room="lobby")
            assert user in {member["user"] for member in (await client.event("presence"))["members"]}
            clients.append(client)
        await clients[0].publish("hello", "1", "lobby")
        await clients[1].publish("hi", "1", "lobby")
        assert [await client.messages(2) for client in clients] == [["hello", "hi"]] * 2
    lines = [json.loads(line) for line in output.read_text().splitlines() if line.startswith("{")]
    assert lines[-1]["event"] == "stopped"


async def test_dev_honours_the_settings_of_the_environment(tmp_path: Path) -> None:
    output = tmp_path / "output"
    key, origin, api_port = "a key of at least 32 characters..", "http://localhost:5173", free_port()
    chosen = {
        "WS_JWT_SECRET": SECRET,
        "WS_JWT_ISSUER": "https://id.example.org",
        "WS_API_KEY": key,
        "WS_API_PORT": str(api_port),
        "WS_ALLOWED_ORIGINS": origin,
        "WS_HEARTBEAT_S": "7",
    }
    async with ws_server_dev(output, **chosen) as (port, tokens):
        printed = output.read_text()
        assert f"  WS_JWT_SECRET={SECRET}\n" in printed
        assert f"  WS_API_KEY={key}\n" in printed
        own = ws_server("token", "carol", WS_JWT_SECRET=SECRET, WS_JWT_ISSUER="https://id.example.org").stdout.strip()
        for user, token in {**tokens, "carol": own}.items():
            connection = await connect(
                f"ws://127.0.0.1:{port}/ws",
                subprotocols=["bearer", token],  # type: ignore[list-item]
                origin=origin,  # type: ignore[arg-type]
                proxy=None,
            )
            client = Client(connection)
            welcome = await client.event("welcome")
            assert (welcome["user"], welcome["heartbeat_s"]) == (user, 7)
        await client.join("lobby")
        [command] = re.findall(r"^  (curl .*)$", printed, re.MULTILINE)
        done = await asyncio.to_thread(
            subprocess.run, f"{command} -fsS --noproxy '*'", shell=True, capture_output=True, text=True, timeout=30
        )
        assert (done.returncode, json.loads(done.stdout)["room"]) == (0, "lobby"), done.stderr
        assert await client.messages(1) == ["hello"]


def test_dev_refuses_an_unknown_setting() -> None:
    done = ws_server("dev", WS_JWT_SECRET="short", WS_HEARTBEATS="7")
    assert done.returncode == 2
    assert sorted(line.split(" ")[1] for line in done.stderr.splitlines()) == ["WS_HEARTBEATS", "WS_JWT_SECRET"]
