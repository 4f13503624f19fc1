# SPDX-License-Identifier: MIT
"""The examples of docs/clients.md talk to each other, unchanged except for the address and the
token.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from playwright.async_api import Browser, expect
from support.browser import MODULE, ORIGIN, PATIENCE_MS, say, serving
from support.worker import SECRET, Worker, environment

from wsserver import client
from wsserver.auth import mint

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

expect.set_options(timeout=PATIENCE_MS)

_DOCUMENT = Path(__file__).parents[4] / "docs/clients.md"


def example(language: str, **replacements: str) -> str:
    [text] = re.findall(rf"^```{language}\n(.*?)^```$", _DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for old, new in {"wss://chat.example.org/ws": replacements.pop("url"), **replacements}.items():
        assert old in text
        text = text.replace(old, new)
    return str(text)


async def test_the_events_have_the_names_that_the_table_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(\w+)` \| (.+?) \| .* \|$", _DOCUMENT.read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == ["state", "member", "gap", "reset", "removed", "error"]
    for name, detail, python, fields in rows:
        assert f'"{name}"' in MODULE.read_text()
        if python == "on_state":
            assert python in inspect.signature(client.Client).parameters
            continue
        kind = getattr(client, python)
        names = re.findall(r"`(\w+)`", fields)
        assert set(names) <= {field.name for field in msgspec.structs.fields(kind)}
        if name in ("member", "gap", "reset"):  # as on the wire
            wire = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
            assert [wire[field] for field in names] == re.findall(r"`(\w+)`", detail)


async def test_the_examples_talk_to_each_other(browser: Browser, start: Callable[..., Worker]) -> None:
    worker = await start(WS_ALLOWED_ORIGINS=ORIGIN).ready()
    url = f"ws://127.0.0.1:{worker.port}/ws"
    bodies = {
        "/": ("text/html", example("html", url=url)),
        "/wsclient.js": ("text/javascript", MODULE.read_text()),
        "/token": ("text/plain", mint(SECRET, "alice", 600)),
    }
    async with serving(browser, bodies) as page:
        await page.goto(f"{ORIGIN}/")
        await expect(page.get_by_role("status")).to_have_text("connected")
        log = page.get_by_role("log").get_by_role("paragraph")
        await expect(log).to_have_text(["1 here"])

        program = example("python", url=url, **{"ask your backend for one": mint(SECRET, "bob", 600)})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await expect(log).to_have_text(["1 here", "bob: hello"])
        for text in ("hi", "bye"):
            await say(page, text)
        await expect(log).to_have_text(["1 here", "bob: hello", "alice: hi", "alice: bye"])
        async with asyncio.timeout(30):
            output, complaints = await process.communicate()
        assert (process.returncode, complaints.decode()) == (0, "")
        assert output.decode().splitlines() == ["bob: hello", "alice: hi", "alice: bye"]
