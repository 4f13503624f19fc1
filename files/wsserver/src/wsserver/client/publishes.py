# SPDX-License-Identifier: MIT
"""Publishes, from the call to the acknowledgement, over all reconnects."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from wsserver.client.errors import Closed, PublishError, passes, pause_s
from wsserver.client.requests import checked, encoded
from wsserver.protocol.commands import Publish
from wsserver.protocol.events import Error

# The server recognises a repeat for five minutes. A later repeat would be a second message.
_REPEATED_FOR_S = 240.0
_CHECK_S = 15.0

# The codes of refusals after which the message may still have been published.
_MAYBE_PUBLISHED = frozenset({"outcome_unknown", "not_archived"})


class _Publish:
    """`in_doubt_since`: when the first attempt that may be published was sent.

    `before`: the same without the last attempt.
    """

    __slots__ = ("acknowledged", "before", "frame", "in_doubt_since", "sent")

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.sent = False
        self.in_doubt_since = self.before = math.inf


class Publishes:
    """Sends publishes in the order of the calls.

    Repeats keep that order, and precede publishes not sent before.

    After a refusal that passes, later publishes that were sent already may be accepted before the
    repeat. `window`: how many may be unacknowledged. `changed` is called whenever that number
    changes.
    """

    def __init__(self, window: int, changed: Callable[[], None]) -> None:
        self._window = asyncio.Semaphore(window)
        self._changed = changed
        self._under_way: dict[str, _Publish] = {}
        self._send: Callable[[bytes], None] | None = None
        self._limit = 0
        self._held: asyncio.TimerHandle | None = None
        self._checking: asyncio.TimerHandle | None = None
        self._end: Closed | None = None

    @property
    def any(self) -> bool:
        return bool(self._under_way)

    async def publish(self, room: str, data: Any, id: str | None) -> int:
        """Publish, and return the `seq` of the message.

        Raises PublishError, Closed, TypeError and ValueError.
        """
        key = uuid.uuid4().hex if id is None else id
        publish = _Publish(checked(Publish(room, msgspec.Raw(encoded(data)), key)))
        async with self._window:
            if self._end is not None:
                raise self._end
            if self._under_way.setdefault(key, publish) is not publish:
                raise ValueError("a publish with this id is pending")
            self._changed()
            self._send_waiting()
            if self._checking is None:
                self._check()
            try:
                return await publish.acknowledged
            finally:
                del self._under_way[key]
                self._changed()

    def connected(self, send: Callable[[bytes], None], limit: int) -> None:
        """Repeat unacknowledged publishes on a new connection, which accepts frames of up to
        `limit` bytes.
        """
        self._send, self._limit = send, limit
        for publish in self._under_way.values():
            publish.sent = False
        self._send_waiting()

    def disconnected(self) -> None:
        self._send = None

    def acknowledged(self, id: str, seq: int) -> None:
        publish = self._under_way.get(id)
        if publish is not None and not publish.acknowledged.done():
            publish.acknowledged.set_result(seq)

    def refused(self, error: Error) -> bool:
        """Process the refusal of a publish. Returns whether it was the refusal of a publish."""
        publish = self._under_way.get(error.id or "")
        if publish is None or publish.acknowledged.done():
            return publish is not None
        if not passes(error):
            publish.acknowledged.set_exception(PublishError(error))
            return True
        publish.sent = False
        if error.code not in _MAYBE_PUBLISHED:
            publish.in_doubt_since = publish.before
        if self._held is None:
            self._held = asyncio.get_running_loop().call_later(pause_s(error), self._release)
        return True

    def end(self, why: Closed) -> None:
        self._end = why
        for timer in (self._held, self._checking):
            if timer is not None:
                timer.cancel()
        for publish in self._under_way.values():
            if not publish.acknowledged.done():
                publish.acknowledged.set_exception(why)

    def _release(self) -> None:
        self._held = None
        self._send_waiting()

    def _check(self) -> None:
        """Give up the publishes that have been in doubt for too long, also without a connection."""
        now = _now()
        for key, publish in self._under_way.items():
            self._too_long(key, publish, now)
        self._checking = None
        if self._under_way:
            self._checking = asyncio.get_running_loop().call_later(_CHECK_S, self._check)

    def _too_long(self, key: str, publish: _Publish, now: float) -> bool:
        if now - publish.in_doubt_since <= _REPEATED_FOR_S:
            return False
        if not publish.acknowledged.done():
            why = "no acknowledgement for minutes; the message may be published"
            publish.acknowledged.set_exception(PublishError(Error("outcome_unknown", why, key)))
        return True

    def _send_waiting(self) -> None:
        if self._send is None or self._held is not None:
            return
        now = _now()
        for key, publish in self._under_way.items():
            if publish.sent or publish.acknowledged.done():
                continue
            if self._too_long(key, publish, now):
                continue
            if len(publish.frame) > self._limit:
                # The server would close the connection, and every later one that gets the repeat.
                why = f"{len(publish.frame)} bytes are more than the {self._limit} that the server takes"
                publish.acknowledged.set_exception(PublishError(Error("too_big", why, key)))
                continue
            self._send(publish.frame)
            publish.sent = True
            publish.before, publish.in_doubt_since = publish.in_doubt_since, min(publish.in_doubt_since, now)


def _now() -> float:
    """Seconds, by a clock that runs while the computer sleeps.

    The server's clock does; the loop's may not.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()
