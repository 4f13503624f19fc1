# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A member of a witness's room in a separate process: listener.py URL CA_FILE TOKEN ROOM.

Prints a line of JSON for each message of the client: epoch, seq, publisher, number.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

from wsserver.client import Client, Message


def hear(message: Message) -> None:
    print(json.dumps([message.epoch, message.seq, message.data["publisher"], message.data["number"]]), flush=True)


async def main(url: str, ca_file: str, token: str, room: str) -> None:
    async with Client(url, token=token, ssl=ssl.create_default_context(cafile=ca_file)) as client:
        await client.join(room, on_message=hear)
        print("joined", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
