# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The control socket, with a worker or another program at its other end."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import threading
import time

import pytest
from hosts import listener

from ansible_collections.selfhost.websocket.plugins.module_utils import _readyz
from ansible_collections.selfhost.websocket.plugins.module_utils._control import (
    Control,
    ControlError,
    NotServedError,
    UnansweredError,
)

STATUS = {
    "version": "1",
    "pid": 2,
    "started_at": 3.5,
    "uptime_s": 4,
    "state": "ready",
    "drained_by": [],
    "connections": 5,
    "rooms": 6,
    "broker": {"available": True, "fullness": 0.0},
    "archive": None,
}


@pytest.fixture
def other_end(host):
    """Answer the first connection with some bytes, then close. The list has the requests."""
    with listener(host.socket()) as server:
        threads = []
        asked = []

        def answer(*pieces, pause_s=0.0):
            def serve():
                connection, _address = server.accept()
                with connection:
                    asked.append(connection.recv(65536))
                    for piece in pieces:
                        try:
                            connection.sendall(piece)
                        except OSError:
                            return
                        time.sleep(pause_s)

            threads.append(threading.Thread(target=serve))
            threads[-1].start()
            return asked

        yield answer
        for thread in threads:
            thread.join()


def line(**answer):
    return json.dumps(answer).encode() + b"\n"


def test_a_worker(host):
    worker = host.worker()
    control = Control(host.socket())
    status = control.status()
    assert (status.pid, status.version, status.state, status.drained_by) == (worker.process.pid, "0.1.0", "ready", [])
    assert control.drain("olga", 0.0).drained_by == ["olga"]
    assert control.hurry("olga").drained_by == ["olga"]
    assert control.undrain("olga").state == "ready"
    with pytest.raises(ControlError, match=r"^refuses: .*window_s"):
        control.drain("olga", 601.0)
    control.drain("olga", 0.0)
    with pytest.raises(ControlError, match=r"^refuses: drained by olga"):
        control.undrain("ansible")


def test_hurry_lets_no_client_in_meanwhile(host):
    worker = host.worker()
    control = Control(host.socket())
    control.drain("olga", 600.0)
    done = threading.Event()
    answers = []

    def look():
        while not done.is_set() or not answers:
            answers.append(_readyz.ask(f"http://127.0.0.1:{worker.port}/readyz", within_s=30).code)

    looking = threading.Thread(target=look)
    looking.start()
    for _time in range(100):
        assert control.hurry("olga").state in ("draining", "drained")
    done.set()
    looking.join()
    assert set(answers) == {503}


def test_the_first_line_is_enough(host, other_end):
    asked = other_end(line(progress=STATUS | {"state": "draining"}))
    assert Control(host.socket()).drain("x", None).state == "draining"
    assert asked == [b'{"cmd": "drain", "by": "x"}\n']


def test_unknown_fields_of_later_releases_are_ignored(host, other_end):
    other_end(line(result=STATUS | {"new": 1}, more=2))
    assert Control(host.socket()).status().connections == 5


def test_a_line_may_come_in_pieces(host, other_end):
    whole = line(result=STATUS)
    other_end(whole[:10], whole[10:], pause_s=0.1)
    assert Control(host.socket()).status().rooms == 6


def test_a_socket_without_a_process(host):
    with pytest.raises(NotServedError, match="has no process that serves"):
        Control(host.socket()).status()
    listener(host.socket()).close()
    with pytest.raises(NotServedError, match="has no process that serves"):
        Control(host.socket()).status()


def test_a_process_that_hangs_up(host, other_end):
    other_end()
    with pytest.raises(NotServedError, match="hung up without an answer"):
        Control(host.socket()).status()


def test_a_process_that_does_not_answer(host):
    with listener(host.socket()), pytest.raises(UnansweredError, match=r"does not answer at .* within 0\.2 s"):
        Control(host.socket(), answer_s=0.2).status()


def test_a_process_that_does_not_accept_the_connection(host):
    with listener(host.socket(), backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(host.socket())
        with pytest.raises(UnansweredError):
            Control(host.socket(), answer_s=0.2).status()


def test_a_process_that_answers_one_byte_at_a_time(host, other_end):
    other_end(*(b" " for _ in range(40)), pause_s=0.05)
    with pytest.raises(UnansweredError):
        Control(host.socket(), answer_s=0.5).status()


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\n",
        b"\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"result":null}\n',
        b'{"error":"no"}\n',
        b"[" * 20_000 + b"\n",
        line(result={}),
        *(
            line(result=STATUS | {name: {"what": "else"} if name != "broker" else 1})
            for name in STATUS
            if name != "archive"
        ),
        line(result=STATUS | {"archive": "yes"}),
        line(result=STATUS | {"connections": "5"}),
        line(result=STATUS | {"connections": True, "pid": None}),
    ],
)
def test_a_process_with_an_invalid_answer(host, other_end, answer):
    other_end(answer)
    with pytest.raises(ControlError, match=r"^answers what this collection does not understand: ") as caught:
        Control(host.socket()).status()
    assert len(str(caught.value)) < 300


def test_a_process_with_an_endless_answer(host, other_end):
    other_end(b"x" * 1_000_000)
    with pytest.raises(ControlError, match=r"^answers with a line that has no end$"):
        Control(host.socket()).status()


def test_a_path_that_is_not_a_socket(host):
    path = host.directory / "file"
    path.write_text("")
    with pytest.raises(ControlError):
        Control(str(path)).status()
    with pytest.raises(ControlError, match="cannot be asked at"):
        Control(f"/{'x' * 200}").status()


def test_a_socket_without_permission(host):
    """Root may open any socket, so the test uses another user's process."""
    with listener(host.socket()):
        host.directory.chmod(0o755)
        pathlib.Path(host.socket()).chmod(0o600)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                Control(host.socket(), answer_s=0.2).status()
            except Exception as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader) as said:
            assert said.read() == f"lets only root and its own group use {host.socket()}: run this task with become"
