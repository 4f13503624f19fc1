# SPDX-License-Identifier: MIT
"""Fresh tickets while a worker of the fleet drains, as an edge presents them: after a 503 to the next worker."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable

from support.redis_server import RedisServer
from support.worker import Worker
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidMessage, InvalidStatus

from wsserver.auth import issue_ticket
from wsserver.storage.redis.connection import RedisAddress
from wsserver.storage.redis.tickets import RedisTickets

Start = Callable[..., Worker]

_AT_ONCE = 150


async def test_no_fresh_ticket_is_refused_while_a_worker_drains(start: Start, redis: RedisServer) -> None:
    workers = [await start(WS_DRAIN_WINDOW_S="2").ready(), await start().ready()]
    tickets = RedisTickets(RedisAddress(redis.url))
    opened: list[ClientConnection] = []

    async def arrive() -> int:
        path = f"/ws?ticket={await issue_ticket(tickets, 'alice')}"
        for worker in workers:
            try:
                opened.append(await worker.connect(path=path, additional_headers={}))
            except InvalidStatus as refused:
                if refused.response.status_code != 503:
                    return refused.response.status_code
            except (OSError, InvalidMessage):
                pass  # the worker has ended, with or without an answer; the edge passes the client on, too
            else:
                return 101
        return 503

    statuses: Counter[int] = Counter()
    for turn in range(6):
        arriving = [asyncio.create_task(arrive()) for _ in range(_AT_ONCE)]
        if turn == 2:
            # In the middle of the handshakes: some have passed the first check of the state.
            await asyncio.sleep(0.03)
            workers[0].signal(signal.SIGTERM)
        statuses.update(await asyncio.gather(*arriving))
    assert statuses == {101: 6 * _AT_ONCE}
    await asyncio.gather(*(connection.close() for connection in opened))
    await tickets.close()
