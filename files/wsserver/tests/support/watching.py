# SPDX-License-Identifier: MIT
"""A small witness in the process of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.wait import until
from support.worker import SECRET
from wsserver.witness import Plan, Witness, from_secret
from wsserver.witness.report import Verdict


def witness(url: str, **plan: Any) -> Witness:
    """A witness, with two publishers and three subscribers in one room by default."""
    return Witness(
        Plan(url, from_secret(SECRET), **{"connections": 3, "rooms": 1, "publishers": 2, "rate": 200, **plan})
    )


async def progress(witness: Witness, count: int = 100) -> None:
    """Wait until so many more messages are acknowledged."""
    wanted = witness.ledger.acknowledged + count
    await until(lambda: witness.ledger.acknowledged >= wanted)


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Witness]:
    """Check that the context does not break the promise."""
    async with witness(url) as one:
        await progress(one)
        yield one
        await progress(one)
        report = await one.finish()
    assert report.verdict is Verdict.KEPT, report.text()
