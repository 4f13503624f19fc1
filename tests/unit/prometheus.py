# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A fake Prometheus."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

Answer = tuple[int, bytes]


def result(kind: str, value: Any) -> Answer:
    return 200, json.dumps({"status": "success", "data": {"resultType": kind, "result": value}}).encode()


def error(code: int, text: str) -> Answer:
    return code, json.dumps({"status": "error", "errorType": "bad_data", "error": text}).encode()


HOLDS = result("vector", [{"metric": {}, "value": [1795529805.1, "0"]}])
HOLDS_NOT = result("vector", [])


class Prometheus:
    """`answers` has the answers of each expression; the last one repeats.

    `asked` records queries.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        prometheus = self

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1  # an answer is one packet

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                (expression,) = parse_qs(body)["query"]
                code, text = prometheus.next_answer(expression) if self.path == "/api/v1/query" else (404, b"")
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler

    def next_answer(self, expression: str) -> Answer:
        self.asked.append(expression)
        answers = self.answers[expression]
        return answers.pop(0) if len(answers) > 1 else answers[0]
