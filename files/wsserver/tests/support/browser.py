# SPDX-License-Identifier: MIT
"""Debian's Chromium without a window, and the JavaScript client in its tabs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, Route, async_playwright

MODULE = Path(__file__).parents[2] / "src/wsserver/web/wsclient.js"
# The address of the tabs' pages. It does not exist: this module answers the requests of a tab.
ORIGIN = "http://localhost:8000"
# The timeout for a tab to become ready, and for each wait of a test.
PATIENCE_MS = 30_000

# Records the events of a client, for tests.
_PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
import { Client } from "./wsclient.js";
Object.assign(window, {
  heard: [],
  seqs: [],
  events: [],
  onMessage(message) { heard.push(message.data); seqs.push(message.seq); },
  make(url, options) {
    window.client = new Client(url, options);
    for (const type of ["state", "gap", "reset", "member", "removed", "error"]) {
      client.addEventListener(type, ({ detail }) => events.push({ type, ...detail }));
    }
  },
  // The outcome of a promise, as plain data.
  outcome: (promise) => promise
    .then((value) => ({ value }), ({ name, code, message }) => ({ name, code, message }))
    .then((outcome) => JSON.parse(JSON.stringify(outcome))),
});
</script>"""


@asynccontextmanager
async def chromium(*arguments: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(arguments))
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(browser: Browser, url: str) -> AsyncIterator[Page]:
    """A page of a server. It must report no error."""
    context = await browser.new_context()
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(PATIENCE_MS)
    await page.goto(url)
    yield page
    await context.close()
    assert complaints == []


async def say(page: Page, text: str) -> None:
    """In a page with a chat."""
    await page.get_by_role("textbox", name="Message").fill(text)
    await page.get_by_role("button", name="Send").click()


@asynccontextmanager
async def serving(browser: Browser, bodies: dict[str, tuple[str, str]]) -> AsyncIterator[Page]:
    """A page that has yet to go to ORIGIN, and the answers there: path -> (content type, body)."""
    # A page of such an address needs permission to connect to this machine.
    context = await browser.new_context(permissions=["local-network-access"])

    async def fulfil(route: Route) -> None:
        content_type, body = bodies[route.request.url.removeprefix(ORIGIN)]
        await route.fulfill(content_type=content_type, body=body)

    await context.route(f"{ORIGIN}/**", fulfil)
    yield await context.new_page()
    await context.close()


class Tab:
    """A page with the module loaded. A call evaluates JavaScript, and awaits a promise.

    The page has `client`, once it was made; `heard` and `seqs` of the messages that `onMessage`
    got; `events`, as the client dispatched them, with their `type`; `outcome(promise)`, which is
    {value} or {name, code, message}.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.set_default_timeout(PATIENCE_MS)

    async def __call__(self, javascript: str) -> Any:
        return await self.page.evaluate(javascript)

    async def run(self, statements: str) -> None:
        """Start JavaScript, without waiting for its result."""
        await self.page.evaluate(f"() => {{ {statements} }}")

    async def make(self, url: str, options: str = "{ token: 'T' }") -> None:
        """Create the client. `options`: JavaScript."""
        await self.run(f"make({url!r}, {options})")

    async def until(self, condition: str) -> None:
        await self.page.wait_for_function(f"!!({condition})")

    async def states(self) -> list[str]:
        states: list[str] = await self("events.filter(({ type }) => type === 'state').map(({ state }) => state)")
        return states

    async def told(self, *types: str) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = await self(f"events.filter(({{ type }}) => {list(types)}.includes(type))")
        return told


@asynccontextmanager
async def tab(
    browser: Browser,
    origin: str = ORIGIN,
    changes: dict[str, str] | None = None,
    **functions: Callable[[], Awaitable[str]],
) -> AsyncIterator[Tab]:
    """`functions`: functions of the test that the page may call by these names. `changes`: replaces
    parts of the module's text.
    """
    # A page of such an address needs permission to connect to this machine.
    context = await browser.new_context(permissions=["local-network-access"])
    tab = Tab(await context.new_page())
    for name, function in functions.items():
        await tab.page.expose_function(name, function)
    await context.route(f"{origin}/**", partial(_fulfil, changes or {}))
    await tab.page.goto(f"{origin}/")
    await tab.until("window.make")
    yield tab
    await context.close()
    assert tab.complaints == []


async def _fulfil(changes: dict[str, str], route: Route) -> None:
    if route.request.url.endswith("/wsclient.js"):
        module = MODULE.read_text()
        for old, new in changes.items():
            assert old in module
            module = module.replace(old, new)
        await route.fulfill(content_type="text/javascript", body=module)
    else:
        await route.fulfill(content_type="text/html", body=_PAGE)
