# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Chats through the fleet of `make up`: talk.py USER. Sends each line that you type to the room."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
import uuid
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

LAB = Path(__file__).parent
ROOM = "lobby"


def show(connection: ClientConnection) -> None:
    for frame in connection:
        message = json.loads(frame)
        if message["type"] == "message":
            print(f"{message['from']}: {message['data']}", flush=True)
        elif message["type"] == "joined":
            print(f"You are in {ROOM}. Type a message; end with Ctrl-D.", flush=True)
        elif message["type"] == "error":
            print(f"error: {message['message']}", flush=True)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: talk.py USER")
    status = json.loads(subprocess.check_output([LAB / "status.sh"]))
    token = subprocess.check_output([LAB / "token.sh", sys.argv[1]], text=True).strip()
    trust = ssl.create_default_context(cafile=status["ca_file"])
    with connect(status["url"], ssl=trust, additional_headers={"Authorization": f"Bearer {token}"}) as connection:
        threading.Thread(target=show, args=(connection,), daemon=True).start()
        connection.send(json.dumps({"type": "join", "room": ROOM}))
        for line in sys.stdin:
            publish = {"type": "publish", "room": ROOM, "data": line.rstrip("\n"), "id": uuid.uuid4().hex}
            connection.send(json.dumps(publish))


if __name__ == "__main__":
    main()
