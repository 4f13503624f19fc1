# SPDX-License-Identifier: MIT
"""Anything on the control socket: every line has its answers, and the worker finds no fault in
itself.
"""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.requests import faults
from support.worker import Worker

_STATUS = b'{"cmd":"status"}'
_texts = st.text(max_size=8) | st.sampled_from(["", "ops", "\0", "\ud83d", "x" * 129, "é" * 70, "\u2028"])
_values = st.one_of(
    _texts,
    st.none() | st.booleans() | st.integers() | st.floats(),
    st.sampled_from([0, 0.0, 601, -1, 1e308, 10**400, [], {}, [{}], {"cmd": "status"}]),
)
_commands = st.builds(
    lambda command, fields: json.dumps({"cmd": command, **fields}).encode(),
    st.sampled_from(["status", "undrain", "kick", "drain", "nothing"]) | _values,
    st.dictionaries(
        st.sampled_from(["by", "window_s", "force", "user", "connection", "reason", "x", "cmd"]), _values, max_size=4
    ),
)
_lines = st.one_of(
    _commands,
    _commands,
    st.binary(max_size=20).filter(lambda line: b"\n" not in line),
    st.sampled_from(
        [
            *(b"", b" ", b"\0", b"null", b"[]", b'"status"', b"{", b'{"cmd":"status"}x', b'{"cmd":"status"}\r'),
            *(b'{"cmd":"drain","by":"ops","window_s":0}', b'{"cmd":"undrain","by":"ops","force":true}'),
            *(b'{"cmd":"kick","user":"\xff"}', b'{"cmd":"status","x":"\xff"}', b'{"cmd":"status","x":"\\ud83d"}'),
            *(b"[" * 5000, b'{"cmd":"status","x":' + b"[" * 5000, b"x" * 65535, b"x" * 70000),
        ]
    ),
)


@pytest.fixture(scope="module")
def control() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ws-control-") as directory:
        yield Path(directory, "control.sock")


@pytest.fixture(scope="module")
def worker(control: Path) -> Iterator[Worker]:
    settings = {"WS_BROKER": "memory", "WS_CONTROL_SOCKET": str(control), "WS_LOG_LEVEL": "warning"}
    started = Worker("unix:///nowhere", **settings)
    asyncio.run(started.ready())
    yield started
    started.remove()


def answers(control: Path, sent: bytes, listen: bool = True) -> list[dict[str, Any]]:
    """All answers to `sent`, less progress, when the worker has closed the connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(control))
        try:
            client.sendall(sent)
            if not listen:
                return []
            client.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: client.recv(65536), b""))
        except (BrokenPipeError, ConnectionResetError):  # the worker hung up on a line that is too long
            return []
    lines = [json.loads(line) for line in received.splitlines()]
    assert all(len(line) == 1 and set(line) <= {"result", "error", "progress"} for line in lines)
    return [line for line in lines if "progress" not in line]


def undrained(control: Path) -> None:
    """End all drains. A command may still be under way from a client that did not listen."""
    deadline = time.monotonic() + 20
    while True:
        answers(control, b'{"cmd":"undrain","by":"the test","force":true}\n')
        [status] = answers(control, _STATUS + b"\n")
        if status["result"]["state"] == "ready":
            return
        assert time.monotonic() < deadline, status


@given(st.lists(_lines, max_size=6), st.sampled_from([b"\n", b"\n", b"\r\n"]), st.booleans(), st.integers(0, 9))
@example([_STATUS, b"\xff", _STATUS], b"\n", True, 1)
@example([b'{"cmd":"kick","user":"\\ud83d"}'], b"\n", True, 1)
@example([b'{"cmd":"drain","by":"\\u0000","window_s":0}', b'{"cmd":"undrain","by":"x"}'], b"\n", True, 1)
def test_every_line_has_its_answer(
    worker: Worker, control: Path, lines: list[bytes], end: bytes, last_ends: bool, listen: int
) -> None:
    sent = end.join(lines) + (end if last_ends else b"")
    given = answers(control, sent, listen > 0)
    # A line that is too long ends the conversation.
    if listen and all(len(line) < 65000 for line in lines):
        whole = sent.split(b"\n")
        asked = [*whole[:-1], *([whole[-1]] if whole[-1].strip() else [])]
        assert len(given) == len(asked), (asked, given)
        for line, one in zip(asked, given, strict=True):
            assert ("result" in one) <= line.strip().startswith(b"{"), (line, one)
            assert one.get("error", {}).get("code") != "internal", (line, one)
    undrained(control)
    assert worker.process.poll() is None
    assert not faults(worker)
