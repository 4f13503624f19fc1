#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A stand-in for Grafana, Loki, Tempo or Alloy, selected by the program's name.

Each stand-in listens at the address in its settings. Loki and Tempo store every body, byte for
byte, for the tests to decode. Alloy forwards traces unchanged, and pushes the journal to Loki with
the labels in its settings. The stand-ins read settings and do not validate them.
"""

from __future__ import annotations

import json
import os
import queue
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
from typing import NamedTuple

# Takes a body with its headers, and returns the status of the answer.
Take = Callable[[bytes, Message], int]
NAME = Path(sys.argv[0]).name.removesuffix("-server")


def serve(address: tuple[str, int], posted: dict[str, Take]) -> ThreadingHTTPServer:
    """Answer 200 to each GET, and pass the body of a POST to the handler of its path, or answer
    503.
    """

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
            """Log nothing."""

    server = ThreadingHTTPServer(address, Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def keep(directory: Path) -> Take:
    """Write each body to a separate, numbered file. Answer 415 to a body that is not protobuf."""
    directory.mkdir(parents=True, exist_ok=True)
    in_turn = threading.Lock()

    def take(body: bytes, headers: Message) -> int:
        if headers["Content-Type"] != "application/x-protobuf":
            return 415
        with in_turn:
            draft = directory / f".{time.time_ns()}"
            draft.write_bytes(body)
            draft.rename(directory / f"{draft.name[1:]}.pb")
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


def setting(pattern: str, settings: str) -> str:
    found = re.search(pattern, settings, re.MULTILINE)
    if found is None:
        sys.exit(f"the settings have no {pattern}")
    return found[1]


class Entry(NamedTuple):
    labels: str
    ns: int
    line: str
    metadata: dict[str, str]


def read_journal(host: str, entries: queue.Queue[Entry]) -> None:
    reading = subprocess.Popen(
        ["journalctl", "--follow", "--output=json", "--since=-1m", "--all"], stdout=subprocess.PIPE, text=True
    )
    for line in reading.stdout or ():
        entry = json.loads(line)
        message, unit = entry.get("MESSAGE"), entry.get("_SYSTEMD_UNIT")
        if not isinstance(message, str) or not unit:
            continue
        level = "info"
        metadata = {}
        if unit.startswith("ws-") and message.startswith("{"):
            said = json.loads(message)
            level = said.get("level", level)
            metadata = {"trace_id": said["trace_id"]} if "trace_id" in said else {}
        labels = f'{{host="{host}", level="{level}", unit={json.dumps(unit)}}}'
        entries.put(Entry(labels, int(entry["__REALTIME_TIMESTAMP"]) * 1000, message, metadata))


def ship_journal(url: str, host: str) -> None:
    """Send the entries of each second as one request, like Alloy, in protobuf with Snappy."""
    import snappy  # noqa: PLC0415 - the package alloy alone depends on it

    entries: queue.Queue[Entry] = queue.Queue(1000)
    threading.Thread(target=read_journal, args=(host, entries), daemon=True).start()
    while True:
        batch = [entries.get()]
        time.sleep(1)
        batch += [entries.get() for _ in range(entries.qsize())]
        body = snappy.compress(push_request(batch))
        while True:
            try:
                post(url, body, "application/x-protobuf")
                break
            except OSError:
                time.sleep(1)


def push_request(batch: list[Entry]) -> bytes:
    """A logproto.PushRequest, with a stream for each set of labels."""
    streams: dict[str, list[bytes]] = {}
    for labels, ns, line, metadata in batch:
        entry = field(1, field(1, ns // 10**9) + field(2, ns % 10**9)) + field(2, line)
        for name, value in metadata.items():
            entry += field(3, field(1, name) + field(2, value))
        streams.setdefault(labels, []).append(field(2, entry))
    return b"".join(field(1, field(1, labels) + b"".join(entries)) for labels, entries in streams.items())


def field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> None:
    if {"validate", "-verify-config", "-config.verify", "-verify-config=true"} & set(sys.argv[1:]):
        return
    if NAME == "grafana":
        secret = Path(os.environ["CREDENTIALS_DIRECTORY"], "admin-password").read_text()
        if len(secret) < 8:
            sys.exit("the administrator's password is missing")
        settings = Path(os.environ["CONF_FILE"]).read_text()
        host = setting(r"^http_addr = (\S+)", settings)
        serve((host, 3000), {})
    else:
        [settings] = [Path(one.removeprefix("-config.file=")).read_text() for one in sys.argv if "/ws." in one]
    if NAME == "loki":
        host = setting(r"http_listen_address: '(.*)'", settings)
        serve((host, 3100), {"/loki/api/v1/push": keep(Path("/var/lib/ws-loki/received"))})
    if NAME == "tempo":
        serve(("127.0.0.1", 3200), {})
        endpoint = setting(r"http:\n.*\n +endpoint: '(.*)'", settings)
        serve(address_of(endpoint), {"/v1/traces": keep(Path("/var/lib/ws-tempo/received"))})
    if NAME == "alloy":
        serve(("127.0.0.1", 12345), {})
        if tempo := re.search(r'endpoint = "(http.*)"', settings):
            serve(("127.0.0.1", 4318), {"/v1/traces": passing(tempo[1] + "/v1/traces")})
        if loki := re.search(r'url = "(http.*)"', settings):
            host = setting(r'host = "(.*?)"', settings)
            threading.Thread(target=ship_journal, args=(loki[1], host), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
