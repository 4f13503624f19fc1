# SPDX-License-Identifier: MIT
"""`ws-server dev`, as a developer runs it."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.ports import free_port
from support.wait import until
from support.worker import environment


@asynccontextmanager
async def ws_server_dev(output: Path, **settings: str) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """The port, and the token of each user whose link was printed.

    `output`: the file for the output.
    """
    port = free_port()
    settings = {"WS_API_PORT": str(free_port()), **settings}
    command = [sys.executable, "-m", "wsserver", "dev", "--port", str(port)]
    with output.open("w") as stdout:
        dev = subprocess.Popen(command, env=environment(**settings), stdout=stdout)  # noqa: ASYNC220 - it is quick
        try:
            await until(lambda: '"ready"' in output.read_text())
            printed = await asyncio.to_thread(output.read_text)
            yield port, dict(re.findall(r"http://127\.0\.0\.1:\d+/#user=(\w+)&token=(\S+)", printed))
        finally:
            dev.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(dev.wait, 30) == 0
