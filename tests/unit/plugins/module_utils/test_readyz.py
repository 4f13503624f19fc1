# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors

from __future__ import annotations

import re
import signal
import socket
import threading

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils import _readyz
from ansible_collections.selfhost.websocket.plugins.module_utils._control import Control


def test_a_worker(host):
    worker = host.start()
    url = f"http://127.0.0.1:{worker.port}/readyz"
    answer = _readyz.ask(url)
    assert (answer.ready, answer.code, str(answer)) == (True, 200, "200 ready")
    Control(host.socket()).drain("olga", 0.0)
    answer = _readyz.ask(url)
    assert (answer.ready, answer.code) == (False, 503)
    assert re.fullmatch("503 not ready: drain(ing|ed)", str(answer))
    worker.signal(signal.SIGSTOP)
    answer = _readyz.ask(url, within_s=0.2)
    assert (answer.ready, answer.code) == (False, None)
    assert "timed out" in str(answer)
    worker.signal(signal.SIGCONT)


def test_no_proxy_is_used(host, monkeypatch):
    worker = host.worker()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert _readyz.ask(f"http://127.0.0.1:{worker.port}/readyz").ready


def test_a_port_without_a_process():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        answer = _readyz.ask(f"http://127.0.0.1:{unused.getsockname()[1]}/readyz")
    assert (answer.ready, answer.code) == (False, None)
    assert re.fullmatch(r"no answer: .*refused.*", str(answer))


@pytest.mark.parametrize(
    "said", [b"", b"220 mail.example.org ESMTP\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nready"]
)
def test_answers_that_are_not_a_workers(said):
    """No answer raises an exception."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _address = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(said)

        other = threading.Thread(target=serve)
        other.start()
        answer = _readyz.ask(f"http://127.0.0.1:{server.getsockname()[1]}/readyz")
        other.join()
    assert answer.ready is (b"200 OK" in said)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/readyz", "nonsense", "http://[::1/readyz"])
def test_invalid_urls(url):
    assert _readyz.ask(url).code is None
