# SPDX-License-Identifier: MIT
"""Tabs that talk to each other without a break, and check the promise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from playwright.async_api import Browser

from support.browser import ORIGIN, Tab, tab

# A room's log keeps the last thousand messages: while a tab is disconnected, the others must send
# fewer.
_PAUSE_MS = 100


class Conversation:
    """A tab for each token, one token for each user. All tabs join a fresh room and publish to it."""

    def __init__(self, browser: Browser, url: str, tokens: list[str], room: str = "r", origin: str = ORIGIN) -> None:
        self.tabs: list[Tab] = []
        self._browser = browser
        self._url = url
        self._tokens = tokens
        self._room = room
        self._origin = origin

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """Let the tabs talk in this context and shortly after. Then each must have received all
        messages once, in order."""
        async with AsyncExitStack() as stack:
            for token in self._tokens:
                page = await stack.enter_async_context(tab(self._browser, self._origin))
                self.tabs.append(page)
                await page.make(self._url, f"{{ token: '{token}' }}")
                await page("client.connect()")
                await page(f"client.join('{self._room}', {{ onMessage }}).then(() => {{}})")
            for n, page in enumerate(self.tabs):
                await page.run(
                    f"""
                        window.acknowledged = 0;
                        window.talk = true;
                        window.talking = (async () => {{
                            while (talk) {{
                                await client.publish("{self._room}", [{n}, acknowledged]);
                                acknowledged += 1;
                                await new Promise((goOn) => setTimeout(goOn, {_PAUSE_MS}));
                            }}
                        }})();
                    """
                )
            await self.progress()
            yield
            await self.progress()
            for page in self.tabs:
                await page.run("talk = false")
            counts = [await page("talking.then(() => acknowledged)") for page in self.tabs]
            for page in self.tabs:
                assert await page.told("gap", "reset", "error") == []
                await page.until(f"heard.length >= {sum(counts)}")
                heard, seqs = await page("[heard, seqs]")
                assert seqs == list(range(1, sum(counts) + 1))
                for n, count in enumerate(counts):
                    assert [number for who, number in heard if who == n] == list(range(count))
                assert await page("[client.duplicates, client.holes]") == [0, 0]

    async def progress(self) -> None:
        """Wait until the service has acknowledged more messages of each tab."""
        for page in self.tabs:
            more = await page("acknowledged") + 10
            await page.until(f"acknowledged >= {more}")
