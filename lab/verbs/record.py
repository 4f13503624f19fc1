# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Records docs/pictures/roll.webp: a chat in two windows on the fleet of `make up`, while `make
roll` replaces its workers.

The pages and their backend are the code of docs/tutorial.md, with the fleet's addresses. After the
roll both pages must show every message once and in order. Otherwise no picture is written.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from labhosts import host as hosts
from labhosts import state
from PIL import Image
from playwright.async_api import Browser, Frame, Page, Route, async_playwright
from playwright.async_api import Error as PlaywrightError

from verbs.playbook import ROOT, UP
from verbs.terminal import Terminal

_PICTURE = ROOT / "docs/pictures/roll.webp"
_CODE = {"app.py": "python", "index.html": "html", "app.js": "javascript"}
_SERVED = re.compile(r"https://[^/]+/((app|wsclient)\.js|token|ticket|)(\?.*)?$")
_WIDTH, _HEIGHT = 860, 470
_COLUMNS, _LINES = 118, 13
# The time between two frames, and how long a frame and the last frame are shown.
_EVERY_S, _SHOWN_MS, _LAST_MS = 1.5, 250, 4000
_SAY_S = 1.5
_PATIENCE_S = 30.0

_STYLE = """<style>
  body { font: 14px sans-serif; margin: 8px; }
  p { margin: 3px 0; } h2 { font-size: 15px; margin: 6px 0; }
  #log { height: 105px; display: flex; flex-direction: column; justify-content: flex-end; overflow: hidden; border: 1px solid #bbb; padding: 2px 6px; }
  #typing { height: 1.2em; } #members { margin: 3px 0; padding-left: 20px; } #members li { display: inline-block; margin-right: 12px; }
</style>"""
_STAGE = """<!doctype html><meta charset="utf-8"><style>
  body { margin: 0; background: #ddd; }
  iframe { position: absolute; top: 6px; width: 421px; height: 248px; border: 0; background: #fff; }
  pre { position: absolute; top: 260px; left: 6px; width: 840px; height: 200px; margin: 0; padding: 2px 4px; overflow: hidden;
        background: #222; color: #ddd; font: 11.5px/14px monospace; white-space: pre-wrap; }
</style>
<iframe src="/?user=alice" style="left: 6px"></iframe><iframe src="/?user=bob" style="left: 433px"></iframe>
<pre></pre>"""


class RecordingError(Exception):
    """The reason why no picture is written, in one sentence."""


def code(language: str) -> str:
    """The tutorial's code in one language."""
    text = (ROOT / "docs/tutorial.md").read_text()
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def at_fleet(text: str, edge: str, port: int, api: int) -> str:
    """Replace the addresses in the tutorial's code by the fleet's, the server API's and the
    backend's."""
    for old, new in {
        "http://127.0.0.1:9080": f"http://127.0.0.1:{api}",
        '"127.0.0.1", 5000': f'"127.0.0.1", {port}',
        "ws://127.0.0.1:8000": f"wss://{edge}",
        "http://127.0.0.1:8000": f"https://{edge}",
    }.items():
        text = text.replace(old, new)
    # Each recording has a separate room, without the history of earlier recordings.
    return text.replace('"lobby', f'"lobby-{port}')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def backend(run: str, edge: str) -> Iterator[str]:
    """Run the tutorial's backend, which reaches the fleet's server API through SSH. Yields its
    address."""
    one = state.load(run)
    if one is None:
        raise RecordingError("there is no fleet; run: make up")
    fleet = one.hosts["fleet"]
    show = '. /etc/ws-server/env; printf "%s\\n" "$WS_JWT_SECRET" "$WS_API_KEY"'
    secret, key = subprocess.check_output([*hosts.ssh(one, fleet), show], text=True).split()
    port, api = free_port(), free_port()
    with tempfile.TemporaryDirectory() as name, (UP / "record.log").open("w") as log, ExitStack() as stack:
        directory = Path(name)
        for file, language in _CODE.items():
            (directory / file).write_text(at_fleet(code(language), edge, port, api))
        with (directory / "index.html").open("a") as page:
            page.write(_STYLE)
        shutil.copy(ROOT / "files/wsserver/src/wsserver/web/wsclient.js", directory)
        forward = hosts.ssh(one, fleet, "-N", "-L", f"{api}:127.0.0.1:9079")
        environment = os.environ | {"WS_JWT_SECRET": secret, "WS_API_KEY": key}
        for argv in (forward, [sys.executable, "app.py"]):
            program = subprocess.Popen(
                argv, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            stack.callback(program.wait)
            stack.callback(program.terminate)
        for each in (port, api):
            wait_for(each)
        yield f"http://127.0.0.1:{port}"


def wait_for(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise RecordingError(f"the backend does not listen; see {UP}/record.log") from None
            time.sleep(0.1)
        else:
            return


@asynccontextmanager
async def stage(browser: Browser, app: str, edge: str) -> AsyncIterator[Page]:
    """Open a page with two windows and a terminal. The origin of the pages is the fleet's name,
    which the fleet allows."""
    context = await browser.new_context(
        viewport={"width": _WIDTH, "height": _HEIGHT}, permissions=["local-network-access"]
    )

    async def serve(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.path == "/" and not url.query:
            await route.fulfill(content_type="text/html", body=_STAGE)
            return
        status, content_type, body = await asyncio.to_thread(_get, f"{app}{url.path}?{url.query}")
        await route.fulfill(status=status, content_type=content_type, body=body)

    await context.route(_SERVED, serve)
    page = await context.new_page()
    await page.goto(f"https://{edge}/")
    yield page
    await context.close()


def _get(url: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:  # noqa: S310 (our own backend)
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, "text/plain", error.read()


async def talk(windows: list[Frame], said: list[str], ended: asyncio.Event) -> None:
    """Let both users write in turn."""
    while not ended.is_set():
        user, window = ("alice", "bob")[len(said) % 2], windows[len(said) % 2]
        text = f"message {len(said) + 1}"
        await window.get_by_role("textbox", name="Message").fill(text)
        await window.get_by_role("button", name="Send").click()
        said.append(f"{user}: {text}")
        await asyncio.sleep(_SAY_S)


async def heard(window: Frame) -> list[str]:
    return await window.get_by_role("log").get_by_role("paragraph").all_inner_texts()


async def record(run: str) -> None:
    """Record the picture and write the file. Raises RecordingError."""
    edge = urlsplit(json.loads((UP / "status.json").read_text())["url"]).netloc
    flags = ["--ignore-certificate-errors", "--disable-lcd-text"]
    with backend(run, edge) as app:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
            async with stage(browser, app, edge) as page:
                pictures = await film(page)
            await browser.close()
    write(pictures)
    print(f"{_PICTURE}: {len(pictures)} frames, {_PICTURE.stat().st_size:,} bytes")


async def film(page: Page) -> list[bytes]:
    """Take pictures of the stage while `make roll` runs. Raises RecordingError if a window lacks a
    message."""
    pictures: list[bytes] = []
    said: list[str] = []
    ended = asyncio.Event()
    windows = page.frames[1:]
    for window in windows:
        await window.get_by_text("connected", exact=True).wait_for()
        await window.get_by_role("listitem").nth(1).wait_for()
    async with Terminal(["make", "roll"], ROOT, _COLUMNS) as terminal:
        talking = asyncio.create_task(talk(windows, said, ended))
        while terminal.runs and not talking.done():
            pictures.append(await take(page, terminal))
            await asyncio.sleep(_EVERY_S)
        ended.set()
        await talking
    if terminal.status:
        raise RecordingError(f"make roll failed:\n{terminal.screen.last(30)}")
    for window in windows:
        await window.get_by_text(said[-1], exact=True).wait_for()
        if (found := await heard(window)) != said:
            raise RecordingError(f"a window does not show the {len(said)} messages that were sent:\n{found}")
    return [*pictures, await take(page, terminal)]


async def take(page: Page, terminal: Terminal) -> bytes:
    screen = f"$ make roll\n{terminal.screen.last(_LINES)}"
    await page.evaluate("(text) => (document.querySelector('pre').textContent = text)", screen)
    return await page.screenshot()


def write(pictures: list[bytes]) -> None:
    """Write the file, without loss but for the shades of colours: 16 for each channel compress
    well."""
    frames = [
        Image.open(io.BytesIO(png)).convert("RGB").point(lambda shade: round(shade / 17) * 17) for png in pictures
    ]
    shown_ms = [_SHOWN_MS] * (len(frames) - 1) + [_LAST_MS]
    # Method 4 compresses what a frame shares with the frame before it, which methods below do not.
    frames[0].save(
        _PICTURE,
        save_all=True,
        append_images=frames[1:],
        duration=shown_ms,
        loop=0,
        lossless=True,
        minimize_size=True,
        method=4,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="the name of the lab's run")
    given = parser.parse_args()
    if not (UP / "ca.pem").exists():
        print("There is no fleet. Run: make up", file=sys.stderr)
        return 2
    try:
        asyncio.run(record(given.run))
    except (RecordingError, PlaywrightError) as failure:
        print(f"No picture: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
