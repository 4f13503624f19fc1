# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The service's entry point.

The role packs this package, _upstream.py and _nginx.py into one file that python3 runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from pathlib import Path

from _nginx import Nginx

from .metrics import exposition, serve, serve_when_available
from .watcher import Watcher


def notify(state: str) -> None:
    """Tell systemd, if systemd started the service."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify_socket:
            notify_socket.sendto(state.encode(), address.replace("@", "\0", 1))


def main() -> None:
    """Run until systemd stops the service."""
    parser = argparse.ArgumentParser(prog="ws_edge_watcher", description="Takes dead hosts out of nginx's upstream.")
    parser.add_argument("--configuration", type=Path, default=Path("/etc/nginx/nginx.conf"))
    parser.add_argument("--upstream", default="ws")
    parser.add_argument("--metrics-port", type=int, default=9145, help="on 127.0.0.1 ...")
    parser.add_argument("--metrics-address", action="append", default=[], help="... and there")
    asyncio.run(_serve(parser.parse_args()))


async def _serve(given: argparse.Namespace) -> None:
    nginx = Nginx(given.configuration)
    watcher = Watcher(nginx, given.upstream, alive=lambda: notify("READY=1\nWATCHDOG=1"))

    def page() -> bytes:
        return exposition(watcher.known, nginx.lingering())

    async with await serve(page, "127.0.0.1", given.metrics_port), asyncio.TaskGroup() as group:
        for address in given.metrics_address:
            group.create_task(serve_when_available(page, address, given.metrics_port))
        await watcher.run()


if __name__ == "__main__":
    main()
