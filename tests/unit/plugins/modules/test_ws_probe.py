# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The probe against a real worker, and against servers that fail in each step."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator

import jwt
import pytest
from hosts import run
from support.redis_server import RedisServer
from support.worker import SECRET, Worker
from websockets.sync.server import ServerConnection, serve

from ansible_collections.selfhost.websocket.plugins.module_utils._probe import Conversation, ProbeError
from ansible_collections.selfhost.websocket.plugins.modules import ws_probe

STEPS = ["connect", "join", "publish", "receive", "leave"]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    redis = RedisServer()
    redis.start()
    started = Worker(redis.url)
    asyncio.run(started.ready())
    yield started
    started.remove()
    redis.remove()


def token(**claims: object) -> str:
    return jwt.encode({"sub": "probe", "exp": time.time() + 600, **claims}, SECRET, "HS256")


def hold(url: str, timeout_s: float = 20, token: str = "x", trust: ssl.SSLContext | None = None) -> Conversation:
    conversation = Conversation()
    conversation.hold(url, None, trust, token, "probe:1", timeout_s=timeout_s)
    return conversation


def failure(url: str, timeout_s: float = 20, **options) -> tuple[str, list[str], str]:
    """The failed step, the successful steps before it, and the message."""
    conversation = Conversation()
    with pytest.raises(ProbeError) as failed:
        conversation.hold(url, None, options.get("trust"), options.get("token", "x"), "probe:1", timeout_s=timeout_s)
    return failed.value.step, sorted(conversation.steps, key=STEPS.index), str(failed.value)


@pytest.fixture
def probe(module):
    """Runs the module through Ansible, with a timeout for a slow machine."""
    return functools.partial(module, "ws_probe", timeout_s=60)


# A real worker.


def test_a_conversation(probe, worker):
    result = probe(url=f"ws://127.0.0.1:{worker.port}/ws", token=token(join=["probe:*"], publish=["probe:*"]))
    assert result["changed"] is False, result
    assert sorted(result["steps"]) == sorted(STEPS)
    assert all(0 < milliseconds < 60000 for milliseconds in result["steps"].values())
    assert result["room"].startswith("probe:")
    assert result["welcome"]["user"] == "probe"


def test_a_failure_as_ansible_reports_it(probe, worker):
    result = probe(url=f"ws://127.0.0.1:{worker.port}/ws", token=token(publish=[]), room="probe:here")
    assert result["failed"]
    assert result["msg"].startswith("publish: refused, forbidden:")
    assert (result["step"], sorted(result["steps"])) == ("publish", ["connect", "join"])
    assert result["room"] == "probe:here"
    assert result["invocation"]["module_args"]["token"] == "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"


def test_a_token_that_is_refused(worker):
    step, done, text = failure(f"ws://127.0.0.1:{worker.port}/ws", token="nonsense")
    assert (step, done) == ("connect", [])
    assert "answered with 401" in text


def test_a_room_that_the_token_does_not_open(worker):
    step, done, text = failure(f"ws://127.0.0.1:{worker.port}/ws", token=token(join=[]))
    assert (step, done) == ("join", ["connect"])
    assert "forbidden" in text


def test_a_path_without_a_websocket(worker):
    step, _done, text = failure(f"ws://127.0.0.1:{worker.port}/healthz")
    assert (step, "answered with 200: ok" in text) == ("connect", True)


# Servers that fail.


class Server:
    """Answers each command with the events in `answers`; None is no answer. Then it may `close`."""

    def __init__(self, trust: ssl.SSLContext | None = None, close_at: str = "", **answers: list[object] | None) -> None:
        self._answers = {
            "welcome": [{"type": "welcome", "user": "probe"}],
            "join": [{"type": "joined"}],
            "publish": [{"type": "ack", "id": "ID"}, {"type": "message", "data": "ID"}],
            "leave": [{"type": "left"}],
            **answers,
        }
        self._close_at = close_at
        self._server = serve(self._converse, "127.0.0.1", 0, ssl=trust)
        scheme = "ws" if trust is None else "wss"
        self.url = f"{scheme}://127.0.0.1:{self._server.socket.getsockname()[1]}/ws"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _converse(self, connection: ServerConnection) -> None:
        self._answer(connection, "welcome", "")
        for frame in connection:
            command = json.loads(frame)
            self._answer(connection, command["type"], command.get("id", ""))

    def _answer(self, connection: ServerConnection, command: str, token: str) -> None:
        if command == self._close_at:
            connection.close(1001, "going away")
            return
        for event in self._answers[command] or []:
            connection.send(json.dumps(event).replace("ID", token))

    def stop(self) -> None:
        self._server.shutdown()


@pytest.fixture
def server() -> Iterator[type[Server]]:
    started: list[Server] = []

    def start(**options) -> Server:
        started.append(Server(**options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def test_the_message_may_come_before_its_acknowledgement(server):
    early = server(publish=[{"type": "message", "data": "ID"}, {"type": "ack", "id": "ID"}])
    assert sorted(hold(early.url).steps) == sorted(STEPS)


def test_messages_of_other_clients_are_ignored(server):
    others = [{"type": "message", "data": "other"}, {"type": "member", "user": "u"}, {"type": "ack", "id": "other"}]
    busy = server(publish=[*others, {"type": "ack", "id": "ID"}, *others, {"type": "message", "data": "ID"}])
    assert sorted(hold(busy.url).steps) == sorted(STEPS)


@pytest.mark.parametrize(
    ("answers", "step", "before"),
    [
        ({"welcome": None}, "connect", []),
        ({"join": None}, "join", ["connect"]),
        ({"publish": None}, "publish", ["connect", "join"]),
        ({"publish": [{"type": "message", "data": "ID"}]}, "publish", ["connect", "join", "receive"]),
        ({"publish": [{"type": "ack", "id": "ID"}]}, "receive", ["connect", "join", "publish"]),
        ({"leave": None}, "leave", ["connect", "join", "publish", "receive"]),
    ],
)
def test_no_answer(server, answers, step, before):
    failed, done, text = failure(server(**answers).url, timeout_s=2)
    assert (failed, done) == (step, before)
    assert "no answer in" in text


@pytest.mark.parametrize("command", ["welcome", "join", "publish", "leave"])
def test_a_connection_that_is_closed(server, command):
    failed, _done, text = failure(server(close_at=command).url)
    assert failed == ("connect" if command == "welcome" else command)
    assert "closed with 1001 going away" in text


@pytest.mark.parametrize("answer", [[1], "text", {"no": "type"}])
def test_an_answer_that_is_not_an_event(server, answer):
    assert failure(server(join=[answer]).url)[0] == "join"


def test_no_server_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        step, _done, text = failure(f"ws://127.0.0.1:{probe.getsockname()[1]}/ws")
    assert (step, "refused" in text) == ("connect", True)


def test_a_server_that_sends_nothing():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        step, _done, text = failure(f"ws://127.0.0.1:{listener.getsockname()[1]}/ws", timeout_s=0.5)
    assert (step, "no answer in" in text) == ("connect", True)


def issue(path, *options):
    """Create a certificate for 127.0.0.1. Without options, the certificate is its own authority."""
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={path.name}", "-days", "1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*request, *names, *options, "-keyout", f"{path}.key", "-out", path], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, f"{path}.key")
    return path, context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return issue(tmp_path_factory.mktemp("tls") / "edge.pem")


def test_tls(probe, server, certificate):
    path, context = certificate
    secure = server(trust=context)
    result = probe(url=secure.url, token="x", ca_file=str(path))
    assert sorted(result.get("steps", [])) == sorted(STEPS), result
    stranger = run(ws_probe, url=secure.url, token="x", timeout_s=60)
    assert stranger["step"] == "connect"
    assert "certificate verify failed" in stranger["msg"]
    assert "cannot be used" in run(ws_probe, url=secure.url, token="x", ca_file="/nowhere")["msg"]


def test_a_private_authority_without_key_usage(server, tmp_path, monkeypatch):
    """The default context of Python 3.13 refuses it."""
    create = ssl.create_default_context

    def create_as_python_3_13(**options):
        context = create(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", create_as_python_3_13)
    ca, _context = issue(tmp_path / "ca.pem")
    _edge, context = issue(
        tmp_path / "edge.pem", "-CA", ca, "-CAkey", f"{ca}.key", "-addext", "basicConstraints=CA:FALSE"
    )
    result = run(ws_probe, url=server(trust=context).url, token="x", ca_file=str(ca), timeout_s=60)
    assert sorted(result.get("steps", [])) == sorted(STEPS), result
