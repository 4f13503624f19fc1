# SPDX-License-Identifier: MIT
"""The code of docs/tutorial.md with two users, unchanged except for the ports; and the README's ten
lines.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect
from support.browser import MODULE, ORIGIN, PATIENCE_MS, opened, say, serving
from support.dev import ws_server_dev
from support.wait import until
from support.worker import SECRET, environment, free_port

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

expect.set_options(timeout=PATIENCE_MS)

_ROOT = Path(__file__).parents[4]
_DOCUMENT = _ROOT / "docs/tutorial.md"
_FILES = {"app.py": "python", "index.html": "html", "app.js": "javascript"}
_KEYS = {"WS_JWT_SECRET": SECRET, "WS_API_KEY": "a key of at least 32 characters.."}


def written(language: str, document: Path = _DOCUMENT) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks)


@asynccontextmanager
async def tutorial(directory: Path) -> AsyncIterator[str]:
    """The address of the page; the service and the backend run."""
    app_port, api_port = free_port(), free_port()
    settings = {**_KEYS, "WS_API_PORT": str(api_port), "WS_ALLOWED_ORIGINS": f"http://127.0.0.1:{app_port}"}
    async with ws_server_dev(directory / "output", **settings) as (port, _tokens):
        ports = {":8000": f":{port}", ":9080": f":{api_port}", '"127.0.0.1", 5000': f'"127.0.0.1", {app_port}'}
        for name, language in _FILES.items():
            text = written(language)
            for old, new in ports.items():
                text = text.replace(old, new)
            (directory / name).write_text(text)
        shutil.copy(MODULE, directory)
        with (directory / "app.log").open("w") as log:
            command = [sys.executable, "app.py"]
            app = subprocess.Popen(command, cwd=directory, env=environment(**_KEYS), stdout=log, stderr=log)  # noqa: ASYNC220
            try:
                await until(lambda: _listens(app_port))
                yield f"http://127.0.0.1:{app_port}"
                assert app.poll() is None
                assert "Traceback" not in (directory / "app.log").read_text()
            finally:
                app.kill()
                await asyncio.to_thread(app.wait, 30)


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20):
            return True
    except OSError:
        return False


async def orders_grow(page: Page) -> None:
    """Wait for a number on the stream that is newer than the history."""
    orders = int(await page.locator("#orders").inner_text())
    await page.wait_for_function(f"document.querySelector('#orders').value >= {orders + 3}", timeout=PATIENCE_MS)


async def post(url: str) -> None:
    with await asyncio.to_thread(
        urllib.request.urlopen, urllib.request.Request(url, method="POST"), timeout=20
    ) as answer:
        assert answer.read() == b"done"


async def test_the_tutorial(browser: Browser, tmp_path: Path) -> None:
    async with tutorial(tmp_path) as url, opened(browser, f"{url}/?user=alice") as alice:
        await expect(alice.locator("#state")).to_have_text("connected")
        await expect(alice.get_by_role("listitem")).to_have_text(["alice"])
        await say(alice, "hello")
        await expect(alice.get_by_role("log")).to_have_text("alice: hello")
        async with opened(browser, f"{url}/?user=bob") as bob:
            await expect(bob.get_by_role("log")).to_have_text("alice: hello")  # history on load
            for page in (alice, bob):
                await expect(page.get_by_role("listitem")).to_have_text(["alice", "bob"])
                await expect(page.locator("#orders")).not_to_have_text("?")

            await orders_grow(bob)

            await bob.get_by_role("textbox", name="Message").press_sequentially("hi")
            await expect(alice.locator("#typing")).to_have_text("bob is typing")
            await expect(alice.locator("#typing")).to_have_text("")
            await bob.get_by_role("button", name="Send").click()
            for page in (alice, bob):
                await expect(page.get_by_role("log").get_by_role("paragraph")).to_have_text(["alice: hello", "bob: hi"])

            await post(f"{url}/remove?user=bob")
            await expect(bob.locator("#state")).to_have_text("removed from the lobby")
            await expect(alice.get_by_role("listitem")).to_have_text(["alice"])
            await orders_grow(bob)  # the dashboard is still open

            await post(f"{url}/ban?user=bob")
            await expect(bob.locator("#state")).to_have_text("closed: closed by the application")
        await say(alice, "alone")
        await expect(alice.get_by_role("log").get_by_role("paragraph").last).to_have_text("alice: alone")


async def test_the_ten_lines_of_the_readme(browser: Browser, tmp_path: Path) -> None:
    api_port = free_port()
    settings = {**_KEYS, "WS_API_PORT": str(api_port), "WS_ALLOWED_ORIGINS": ORIGIN}
    async with ws_server_dev(tmp_path / "output", **settings) as (port, _tokens):
        backend: dict[str, Any] = dict(_KEYS)
        exec(written("python", _ROOT / "README.md").replace(":9080", f":{api_port}"), backend)
        script = written("javascript", _ROOT / "README.md").replace(":8000", f":{port}")
        bodies = {
            "/": ("text/html", f'<!doctype html><script type="module">{script}</script>'),
            "/wsclient.js": ("text/javascript", MODULE.read_text()),
            "/token": ("text/plain", backend["token"]("alice")),
        }
        async with serving(browser, bodies) as page:
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            await page.goto(f"{ORIGIN}/")
            await until(lambda: said)
            await asyncio.to_thread(backend["publish"], "lobby", {"text": "from the backend"})
            await until(lambda: len(said) == 2)
            assert said == ["alice {text: hello}", "server {text: from the backend}"]
