# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Two users with the JavaScript client in a browser, on two workers of the fleet."""

from __future__ import annotations

import asyncio
import time
import uuid

from fleet import Fleet, eventually
from support.browser import chromium
from support.conversation import Conversation


async def test_users_chat_across_workers_while_one_is_killed(fleet: Fleet) -> None:
    start = time.time()
    room = uuid.uuid4().hex
    users = [f"{room}-alice", f"{room}-bob"]
    # The page has an allowed origin. Other tests check that clients trust the edge's CA.
    origin = fleet.url.replace("wss:", "https:").removesuffix("/ws")
    async with chromium("--ignore-certificate-errors") as browser:
        tokens = [fleet.token(user) for user in users]
        conversation = Conversation(browser, fleet.url, tokens, room, origin)

        def connections() -> dict[str, list[str]]:
            """The instances of all connections so far, for each user."""
            lines = fleet.journal("connect", start)
            return {
                user: [line["instance"].rpartition("-")[2] for line in lines if line["user"] == user] for user in users
            }

        async with conversation.under_way():
            [alices], [bobs] = (await asyncio.to_thread(connections)).values()
            assert alices != bobs, "least_conn put both on one worker"
            pid = fleet.pid(alices)
            await asyncio.to_thread(fleet.ssh, fleet.worker_host, f"kill -9 {pid}")
            await conversation.tabs[0].until("client.connects === 2 && client.state === 'connected'")
            await conversation.progress()
            assert len((await asyncio.to_thread(connections))[users[1]]) == 1, "bob's worker was not killed"
            await asyncio.to_thread(eventually, lambda: fleet.ready(alices), 60, f"worker {alices} ready again")
