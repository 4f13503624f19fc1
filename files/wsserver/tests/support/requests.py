# SPDX-License-Identifier: MIT
"""HTTP requests that a client would not send, and what a worker may answer."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hypothesis import strategies as st

from support.worker import Worker

Header = tuple[bytes, bytes]
Ending = Literal["wait", "half-close", "reset"]

# Percent-encoding, bytes that are no UTF-8, NUL, half of a surrogate pair, numbers out of range,
# and digits of another script.
ODD_WORDS: Sequence[bytes] = (
    *(b"", b"%", b"%zz", b"%00", b"%ff%fe", b"%ed%a0%bd", b"%0d%0aX:y", b"%2f..%2f", b"+", b"a b", b"\x7f"),
    *(
        b"\xff\xfe",
        "é".encode(),
        "é".encode("latin-1"),
        "😀".encode(),
        "\uff11".encode(),
        b"null",
        b"{}",
        b"[]",
        b"\\ud83d",
    ),
    *(b"0", b"-1", b"1e9", b"1-", b"-", b"1-1", b"9" * 15 + b"-" + b"9" * 16, b"1-" + b"9" * 5000, b"x" * 9000, b"*"),
)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

endings: st.SearchStrategy[Ending] = st.sampled_from(["wait", "wait", "wait", "wait", "half-close", "reset"])
words = st.sampled_from(ODD_WORDS) | st.binary(max_size=12).filter(lambda word: not {10, 13} & set(word))


@st.composite
def repeated(draw: st.DrawFn, headers: Sequence[Header], more: Mapping[bytes, Sequence[bytes]]) -> list[Header]:
    """`headers`, some of them left out, repeated or with another value, and some of `more`."""
    lines: list[Header] = []
    for name, value in headers:
        lines += [(name, value)] * draw(st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2]))
    for name in draw(st.lists(st.sampled_from(sorted(more)), max_size=3)):
        values = st.sampled_from([*more[name], *more[name], *ODD_WORDS])
        lines += [(name, value) for value in draw(st.lists(values, min_size=1, max_size=3))]
    return draw(st.permutations(lines))


@st.composite
def queries(draw: st.DrawFn, known: Mapping[bytes, Sequence[bytes]]) -> bytes:
    """A query string: some of the parameters, with their values or others, in any number."""
    names = st.sampled_from([*known, *known, *known, b"other", b"%72oom", b""])
    pairs = []
    for name in draw(st.lists(names, max_size=4)):
        values = known.get(name, [b"x"])
        pairs.append(name + b"=" + draw(st.sampled_from([*values, *values, *values, *values]) | words))
    return b"?" + draw(st.sampled_from([b"&", b"&", b"&", b"&&", b";"])).join(pairs)


def request(method: bytes, target: bytes, headers: Sequence[Header], rest: bytes = b"") -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in headers)]
    return b"\r\n".join([*lines, b"", b""]) + rest


def answer(port: int, sent: bytes, ending: Ending = "wait", patience_s: float = 0.05) -> bytes:
    """The head of the answer and what came with it, or nothing.

    "wait": for an answer, but no longer than `patience_s`. "half-close": as a client whose body
    ends early. "reset": as a client that vanishes.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client, contextlib.suppress(OSError):
        client.sendall(sent)
        if ending == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return received
        if ending == "half-close":
            client.shutdown(socket.SHUT_WR)
        else:
            client.settimeout(patience_s)
        while b"\r\n\r\n" not in received and (more := client.recv(65536)):
            received = (received + more).removeprefix(_CONTINUE)
    return received


def status(received: bytes) -> int:
    """The status of an answer; 0 for none."""
    if not received:
        return 0
    version, code, _reason = received.split(b" ", 2)
    assert version in (b"HTTP/1.0", b"HTTP/1.1"), received
    return int(code)


def faults(worker: Worker) -> list[dict[str, Any]]:
    """The errors and exceptions in the worker's log. Everything in the log must be JSON."""
    lines = [json.loads(line) for line in worker.output().splitlines()]
    return [line for line in lines if line["level"] in ("error", "critical") or "exception" in line]
