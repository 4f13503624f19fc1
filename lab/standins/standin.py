#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A stand-in for Grafana, Loki, Tempo or Alloy, whichever it is called as. It is none of them.

Each listens where its settings say. Loki and Tempo keep what they are sent, byte for byte, for the tests to decode; Alloy passes traces on as
they come, and the journal as JSON with the labels that its settings ask for. They check no settings: they read them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Answers the status of a body that came with headers.
Take = Callable[[bytes, Message], int]
NAME = Path(sys.argv[0]).name.removesuffix("-server")


def serve(address: tuple[str, int], posted: dict[str, Take]) -> ThreadingHTTPServer:
    """Answer 200 to each GET, and hand the body of a POST to whom its path belongs; 503 if that does not take it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(200)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            take = posted.get(self.path)
            try:
                self.answer(404 if take is None else take(body, self.headers))
            except OSError:
                self.answer(503)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is said of what works."""

    server = ThreadingHTTPServer(address, Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def keep(directory: Path) -> Take:
    """Write each body to a file of its own, with the type that it came with in its name."""
    directory.mkdir(parents=True, exist_ok=True)

    def take(body: bytes, headers: Message) -> int:
        kind = "json" if "json" in headers["Content-Type"] else "pb"
        draft = directory / f".{time.time_ns()}"
        draft.write_bytes(body)
        draft.rename(directory / f"{draft.name[1:]}.{kind}")
        return 200 if NAME == "tempo" else 204

    return take


def post(url: str, body: bytes, kind: str) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": kind})  # noqa: S310 - from its settings
    urllib.request.urlopen(request, timeout=5).close()  # noqa: S310


def passing(url: str) -> Take:
    def take(body: bytes, headers: Message) -> int:
        post(url, body, headers["Content-Type"])
        return 200

    return take


def ship_journal(url: str, host: str) -> None:
    reading = subprocess.Popen(
        ["journalctl", "--follow", "--output=json", "--since=-1m", "--all"], stdout=subprocess.PIPE, text=True
    )
    for line in reading.stdout:
        entry = json.loads(line)
        message, unit = entry.get("MESSAGE"), entry.get("_SYSTEMD_UNIT")
        if not isinstance(message, str) or not unit:
            continue
        labels = {"host": host, "unit": unit, "level": "info"}
        metadata = {}
        if unit.startswith("ws-") and message.startswith("{"):
            said = json.loads(message)
            labels["level"] = said.get("level", "info")
            metadata = {"trace_id": said["trace_id"]} if "trace_id" in said else {}
        value = [entry["__REALTIME_TIMESTAMP"] + "000", message, metadata]
        while True:
            try:
                post(url, json.dumps({"streams": [{"stream": labels, "values": [value]}]}).encode(), "application/json")
                break
            except OSError:
                time.sleep(1)


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> None:
    if {"validate", "-verify-config", "-config.verify", "-verify-config=true"} & set(sys.argv[1:]):
        return
    if NAME == "grafana":
        secret = Path(os.environ["CREDENTIALS_DIRECTORY"], "admin-password").read_text()
        if len(secret) < 8:
            sys.exit("no password of the administrator was handed over")
        settings = Path(os.environ["CONF_FILE"]).read_text()
        host = re.search(r"^http_addr = (\S+)", settings, re.MULTILINE)[1]
        serve((host, 3000), {})
    else:
        [settings] = [Path(one.removeprefix("-config.file=")).read_text() for one in sys.argv if "/ws." in one]
    if NAME == "loki":
        host = re.search(r"http_listen_address: '(.*)'", settings)[1]
        serve((host, 3100), {"/loki/api/v1/push": keep(Path("/var/lib/ws-loki/received"))})
    if NAME == "tempo":
        serve(("127.0.0.1", 3200), {})
        endpoint = re.search(r"http:\n.*\n +endpoint: '(.*)'", settings)[1]
        serve(address_of(endpoint), {"/v1/traces": keep(Path("/var/lib/ws-tempo/received"))})
    if NAME == "alloy":
        serve(("127.0.0.1", 12345), {})
        if tempo := re.search(r'endpoint = "(http.*)"', settings):
            posted = {
                "/v1/traces": lambda body, headers: post(tempo[1] + "/v1/traces", body, headers["Content-Type"]) or 200
            }
            serve(("127.0.0.1", 4318), posted)
        if loki := re.search(r'url = "(http.*)"', settings):
            host = re.search(r'host = "(.*?)"', settings)[1]
            threading.Thread(target=ship_journal, args=(loki[1], host), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
