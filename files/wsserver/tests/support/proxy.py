# SPDX-License-Identifier: MIT
"""A TCP balancer between clients and workers, which can also simulate a failing network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK = 65536


class Proxy:
    """`frozen`: nothing passes until the thaw, not even a FIN.

    `mute`: the answers of workers are lost.
    """

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.port = 0
        self.accepted = 0
        self.frozen = False
        self.mute = False
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def cut(self) -> None:
        """Break every connection, also in the middle of a message."""
        for writer in self._writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            up_reader, up_writer = await self._worker()
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        await asyncio.gather(self._pump(reader, up_writer, up=True), self._pump(up_reader, writer, up=False))
        self._writers -= {writer, up_writer}

    async def _worker(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The workers in turn. If a worker refuses, the next one, as the edge does."""
        first = self.accepted
        for n in range(len(self.ports) - 1):
            try:
                return await asyncio.open_connection("127.0.0.1", self.ports[(first + n) % len(self.ports)])
            except OSError:
                continue
        return await asyncio.open_connection("127.0.0.1", self.ports[(first - 1) % len(self.ports)])

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._thaw()
                if self.mute and not up:
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        await self._thaw()
        writer.transport.abort() if self.mute else writer.close()

    async def _thaw(self) -> None:
        """Deliver what the frozen network held, since TCP repeats it. This includes a FIN."""
        while self.frozen:  # noqa: ASYNC110 - a test sets it
            await asyncio.sleep(0.02)


@asynccontextmanager
async def proxy(*ports: int) -> AsyncIterator[Proxy]:
    balancer = Proxy(list(ports))
    async with await asyncio.start_server(balancer.accept, "127.0.0.1", 0) as server:
        balancer.port = server.sockets[0].getsockname()[1]
        yield balancer
        balancer.frozen = False
        balancer.cut()
