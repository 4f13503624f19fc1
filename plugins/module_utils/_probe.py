# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

"""One real conversation with the service as a client: connect, join, publish, receive, leave."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

WEBSOCKETS_ERROR: str | None = None
try:
    from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
    from websockets.sync.client import ClientConnection, connect
except ImportError:
    WEBSOCKETS_ERROR = traceback.format_exc()


class ProbeError(Exception):
    """A step failed. `step` is its name, and the text names the cause."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"{step}: {why}")
        self.step = step


@dataclass
class Conversation:
    """A conversation.

    `steps` has the milliseconds of each step, `welcome` the worker's first event.
    """

    steps: dict[str, float] = field(default_factory=dict)
    welcome: dict[str, Any] = field(default_factory=dict)

    def hold(
        self, url: str, address: str | None, trust: ssl.SSLContext | None, token: str, room: str, *, timeout_s: float
    ) -> None:
        """Hold the conversation. Each step takes at most `timeout_s`.

        `address` overrides the host of `url`. Raises ProbeError, and keeps the results until then.
        """
        with contextlib.ExitStack() as stack:
            with self._step("connect"):
                options: dict[str, Any] = {"ssl": trust, "open_timeout": timeout_s, "close_timeout": min(timeout_s, 2)}
                if address is not None:
                    parts = urlsplit(url)
                    port = parts.port or (443 if parts.scheme == "wss" else 80)
                    options["address"] = (address, port)
                headers = {"Authorization": f"Bearer {token}"}
                connection = stack.enter_context(
                    connect(
                        url, additional_headers=headers, proxy=None, compression=None, ping_interval=None, **options
                    )
                )
                self.welcome = _Events(connection, timeout_s).next("welcome")
                del self.welcome["type"]
            with self._step("join"):
                _send(connection, type="join", room=room)
                _Events(connection, timeout_s).next("joined")
            self._publish(connection, room, timeout_s)
            with self._step("leave"):
                _send(connection, type="leave", room=room)
                _Events(connection, timeout_s).next("left")

    def _publish(self, connection: ClientConnection, room: str, timeout_s: float) -> None:
        """Publish and receive. Acknowledgement and message may arrive in either order."""
        token = uuid.uuid4().hex
        events = _Events(connection, timeout_s)
        early = False

        def is_ours(event: dict[str, Any]) -> bool:
            return event.get("id") == token if event["type"] == "ack" else event.get("data") == token

        begin = time.monotonic()
        with self._step("publish", begin):
            _send(connection, type="publish", room=room, data=token, id=token)
            while events.next("ack", "message", such=is_ours)["type"] == "message":
                early = True
                self.steps["receive"] = _ms_since(begin)
        if not early:
            with self._step("receive", begin):
                events.next("message", such=is_ours)

    @contextlib.contextmanager
    def _step(self, name: str, begin: float | None = None) -> Iterator[None]:
        begin = time.monotonic() if begin is None else begin
        try:
            yield
        except InvalidStatus as error:
            text = (error.response.body or b"").decode(errors="replace").strip()
            raise ProbeError(name, f"answered with {error.response.status_code}: {text}") from error
        except ConnectionClosed as error:
            closed = error.rcvd
            why = f"closed with {closed.code} {closed.reason}".rstrip() if closed else "lost"
            raise ProbeError(name, f"the connection was {why}") from error
        except TimeoutError as error:
            raise ProbeError(name, f"no answer in {_ms_since(begin) / 1000:.1f} s") from error
        except (OSError, WebSocketException, ValueError) as error:
            raise ProbeError(name, str(error)) from error
        self.steps[name] = _ms_since(begin)


class _Events:
    """The events of one step, until `timeout_s` after its begin."""

    def __init__(self, connection: ClientConnection, timeout_s: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + timeout_s

    def next(self, *types: str, such: Callable[[dict[str, Any]], bool] = lambda _event: True) -> dict[str, Any]:
        """Return the next event of these types.

        Raises TimeoutError, ConnectionClosed, ValueError.
        """
        while True:
            frame = self._connection.recv(timeout=max(0.0, self._deadline - time.monotonic()))
            event = json.loads(frame)
            if not isinstance(event, dict) or "type" not in event:
                raise ValueError(f"answered with something other than an event: {frame[:200]!r}")
            if event["type"] == "error":
                raise ValueError(f"refused, {event.get('code')}: {event.get('message')}")
            if event["type"] in types and such(event):
                return event


def _send(connection: ClientConnection, **command: str) -> None:
    connection.send(json.dumps(command))


def _ms_since(begin: float) -> float:
    return round((time.monotonic() - begin) * 1000, 1)
