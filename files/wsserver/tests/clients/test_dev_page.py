# SPDX-License-Identifier: MIT
"""The page of `ws-server dev` with two users, through the roles and names that a screen reader
reads.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect
from support.browser import PATIENCE_MS, opened, say
from support.dev import ws_server_dev

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

expect.set_options(timeout=PATIENCE_MS)


async def test_two_users_chat_and_one_is_cut_off(browser: Browser, tmp_path: Path) -> None:
    async with ws_server_dev(tmp_path / "output") as (port, tokens):
        links = [f"http://127.0.0.1:{port}/#user={user}&token={token}" for user, token in tokens.items()]
        async with opened(browser, links[0]) as alice, opened(browser, links[1]) as bob:
            for page in (alice, bob):
                await expect(page.get_by_role("status")).to_have_text("connected")
                await expect(page.get_by_role("listitem")).to_have_text(["alice", "bob"])
                await expect(page.get_by_role("heading", name="Here now")).to_have_text("Here now: 2")
            messages = [page.get_by_role("log").locator(".message") for page in (alice, bob)]
            await say(alice, "hello")
            await say(bob, "<b>hi</b>")
            for log in messages:
                await expect(log).to_have_text(["alice hello", "bob <b>hi</b>"])

            await bob.get_by_role("button", name="Kill the connection").click()
            # A disconnected user publishes later, and gets the messages in between.
            await say(alice, "still there?")
            await say(bob, "yes")
            await expect(bob.get_by_role("status")).to_have_text("connected")
            for log in messages:
                await expect(log).to_have_count(4)
                said = [text.partition(" ")[2] for text in await log.all_text_contents()]
                assert said[:2] == ["hello", "<b>hi</b>"]
                assert sorted(said[2:]) == ["still there?", "yes"]
            assert await messages[0].all_text_contents() == await messages[1].all_text_contents()
            await expect(bob.get_by_role("log")).to_contain_text("reconnecting: killed by the button")
            await expect(bob.get_by_role("listitem")).to_have_text(["alice", "bob"])
        async with opened(browser, links[0]) as alice:
            await expect(alice.get_by_role("listitem")).to_have_text(["alice"])


async def test_a_bad_link_shows_an_error(browser: Browser, tmp_path: Path) -> None:
    async with ws_server_dev(tmp_path / "output") as (port, _tokens):
        async with opened(browser, f"http://127.0.0.1:{port}/") as page:
            await expect(page.get_by_role("log")).to_contain_text("no token")
        async with opened(browser, f"http://127.0.0.1:{port}/#user=alice&token=of.another.run") as page:
            await expect(page.get_by_role("status")).to_have_text("closed")
            await expect(page.get_by_role("log")).to_contain_text("closed with 1008: the token is not valid")
            await expect(page.get_by_role("button", name="Send")).to_be_disabled()
