# SPDX-License-Identifier: MIT
"""The recipes of docs/auth.md, unchanged, against a real worker."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.auth import SECRET
from support.ports import free_port
from support.worker import Client, Worker, environment
from websockets.asyncio.client import connect

Start = Callable[..., Worker]

_DOCUMENT = Path(__file__).parents[4] / "docs/auth.md"
_API_KEY = "an API key of at least 32 characters"
_NAMES = {"python": "recipe.py", "javascript": "recipe.mjs", "php": "recipe.php"}
_INTERPRETERS = {"python": sys.executable, "javascript": shutil.which("node"), "php": shutil.which("php")}


def recipe(language: str) -> str:
    _before, _heading, recipes = _DOCUMENT.read_text().partition("## Recipes\n")
    [text] = re.findall(rf"^```{language}\n(.*?)^```$", recipes, re.MULTILINE | re.DOTALL)
    return str(text)


async def run(language: str, directory: Path, worker: Worker, api_port: int) -> list[str]:
    """The lines that the recipe prints."""
    interpreter = _INTERPRETERS[language]
    if interpreter is None:
        pytest.skip(f"no interpreter for {language} is installed")
    program = directory / _NAMES[language]
    program.write_text(recipe(language))
    settings = {"WS_JWT_SECRET": SECRET, "WS_API_KEY": _API_KEY, "WS_API_URL": f"http://127.0.0.1:{api_port}"}
    process = await asyncio.create_subprocess_exec(
        *(interpreter, str(program)),
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, complaints = await process.communicate()
    assert (process.returncode, complaints.decode()) == (0, "")
    return output.decode().splitlines()


@pytest.mark.parametrize("language", _NAMES)
async def test_a_recipe(language: str, start: Start, tmp_path: Path) -> None:
    api_port = free_port()
    worker = await start(WS_API_KEY=_API_KEY, WS_API_PORT=str(api_port)).ready()
    bob = await worker.client("bob")
    await bob.join("lobby")

    token, ticket, published = await run(language, tmp_path, worker, api_port)

    message = await bob.event("message")
    assert (message["from"], message["data"], message["seq"]) == ("alice", {"text": "hello"}, 1)
    assert json.loads(published)["seq"] == 1

    by_token = await _enter(worker, "", additional_headers={"Authorization": f"Bearer {token}"})
    assert await _may(by_token, "join", "lobby", "user:alice:inbox", "user:bob:inbox") == [True, True, False]
    assert await _may(by_token, "publish", "lobby", "user:alice:inbox") == [True, False]

    by_ticket = await _enter(worker, f"?ticket={ticket}")
    assert await _may(by_ticket, "join", "lobby", "user:alice:inbox") == [True, False]
    assert await _may(by_ticket, "publish", "lobby") == [False]
    await asyncio.gather(*(client.connection.close() for client in (bob, by_token, by_ticket)))


async def _enter(worker: Worker, query: str, **options: Any) -> Client:
    url = f"ws://127.0.0.1:{worker.port}/ws{query}"
    client = Client(await connect(url, proxy=None, open_timeout=20, **options))
    assert (await client.event("welcome"))["user"] == "alice"
    return client


async def _may(client: Client, command: str, *rooms: str) -> list[bool]:
    """Which of `rooms` the client is allowed to join, or to publish to."""
    allowed = []
    for number, room in enumerate(rooms):
        more = {"data": None, "id": f"{room} {number}"} if command == "publish" else {}
        await client.send(type=command, room=room, **more)
        while (event := await client.next())["type"] not in ("joined", "ack", "error"):
            pass
        assert event["type"] != "error" or event["code"] == "forbidden", event
        allowed.append(event["type"] != "error")
    return allowed
