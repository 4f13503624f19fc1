# SPDX-License-Identifier: MIT
"""The two kinds of clients of a witness."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from wsserver.client import Client, Closed, Message, Position, PublishError, State
from wsserver.protocol.events import Event, Gap, Joined, Reconnect, Reset
from wsserver.runtime.tasks import Tasks
from wsserver.witness.ledger import Key, Ledger
from wsserver.witness.plan import Plan

# A publisher waits while it has more unacknowledged publishes. It does not catch up after an
# outage.
_WINDOW = 32
# A publisher that is later than this continues from now, and does not catch up.
_LATE_S = 1.0


@dataclass(frozen=True)
class Absence:
    """The time from a cut, or a request to reconnect, until the client was back, or until now.

    `failed_tries`: attempts to connect in that time; `failure`: the reason of the last failure.
    """

    seconds: float = 0.0
    failed_tries: int = 0
    failure: str = ""


class Attendee:
    """A client, and the record of its connections.

    `disconnects`: how often its connection ended. `why`: the reason why it is not connected. `fail`
    is called with a sentence if the server refuses the client permanently.
    """

    def __init__(self, plan: Plan, user: str, fail: Callable[[str], None]) -> None:
        self.user = user
        self.disconnects = 0
        self.why = "no answer"
        self.client = Client(
            plan.url,
            token_factory=plan.credentials(user),
            ssl=plan.tls,
            on_state=self._on_state,
            on_event=self._on_event,
        )
        self._fail = fail
        self._was_connected = False
        self._away_since: float | None = None
        self._failed_tries = 0
        self._failure = ""
        self._longest = Absence()
        self._closing = False

    @property
    def connected(self) -> bool:
        return self.client.state is State.CONNECTED

    @property
    def longest_absence(self) -> Absence:
        if self._away_since is None:
            return self._longest
        now = Absence(time.monotonic() - self._away_since, self._failed_tries, self._failure)
        return max(self._longest, now, key=lambda absence: absence.seconds)

    async def arrive(self) -> None:
        """Wait for the first connection. Raises Closed."""
        await self.client.__aenter__()

    async def close(self) -> None:
        self._closing = True
        await self.client.close()

    def _on_state(self, state: State, why: str) -> None:
        self.why = why
        if self._was_connected and not self._closing and state is not State.CONNECTED:
            self.disconnects += 1
            self._leaves()
        elif self._away_since is not None and state is not State.CONNECTED:
            self._failed_tries += 1
            self._failure = why
        if state is State.CLOSED and not self._closing:
            self._fail(f"{self.user} is refused: {why}")
        self._was_connected = state is State.CONNECTED

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Reconnect):
            self._leaves()

    def _leaves(self) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()

    def _is_back(self) -> None:
        self._longest = self.longest_absence
        self._away_since, self._failed_tries, self._failure = None, 0, ""


class Subscriber(Attendee):
    """The member `number` (counted from 0) of `room`. Enters its messages in the ledger.

    `gaps`, `resets`: counts of these events. `longest_silence_s`: the longest time without a
    message while it listened.
    """

    def __init__(
        self, plan: Plan, user: str, fail: Callable[[str], None], ledger: Ledger, room: str, number: int
    ) -> None:
        super().__init__(plan, user, fail)
        self.room = room
        self.gaps = 0
        self.resets = 0
        self.longest_silence_s = 0.0
        self._ledger = ledger
        self._number = number
        self._heard_at: float | None = None

    async def arrive(self) -> None:
        """Wait until the client is in the room. Raises Closed and JoinError."""
        await super().arrive()
        await self.client.join(self.room, on_message=self._hear)

    def listen(self) -> None:
        """Measure silences from now on, as the publishers start."""
        self._heard_at = time.monotonic()

    def stop_listening(self) -> None:
        self._end_silence(time.monotonic())
        self._heard_at = None

    def _hear(self, message: Message) -> None:
        now = time.monotonic()
        self._end_silence(now)
        match message.data:
            case {"publisher": int(publisher), "number": int(number)}:
                position = Position(message.epoch, message.seq)
                self._ledger.deliver(Key(publisher, number), self.room, self._number, position, now)

    def _end_silence(self, now: float) -> None:
        if self._heard_at is not None:
            self.longest_silence_s = max(self.longest_silence_s, now - self._heard_at)
            self._heard_at = now

    def _on_event(self, event: Event) -> None:
        super()._on_event(event)
        if isinstance(event, Joined):
            self._is_back()
        elif isinstance(event, Gap):
            self.gaps += 1
        elif isinstance(event, Reset):
            self.resets += 1


class Publisher(Attendee):
    """The publisher `number` (counted from 0), which publishes to `rooms` in turn.

    Enters its messages in the ledger.

    `refused`: publishes that its client gave up, by the code of the error.
    """

    def __init__(
        self, plan: Plan, user: str, fail: Callable[[str], None], ledger: Ledger, rooms: list[str], number: int
    ) -> None:
        super().__init__(plan, user, fail)
        self.refused: Counter[str] = Counter()
        self._ledger = ledger
        self._number = number
        # Publishers take turns, and begin with different rooms, so that each room gets messages of
        # all of them.
        self._share = number / plan.publishers
        first = int(len(rooms) * self._share)
        self._rooms = rooms[first:] + rooms[:first]
        self._padding = "x" * plan.size
        self._interval_s = plan.publishers / plan.rate
        self._window = asyncio.Semaphore(_WINDOW)
        self._under_way = Tasks()

    @property
    def outstanding(self) -> int:
        """Publishes that still wait for an acknowledgement."""
        return len(self._under_way)

    async def publish(self) -> None:
        """Publish one message after the other, until cancelled."""
        due = time.monotonic() + self._interval_s * self._share
        count = 0
        while True:
            await asyncio.sleep(due - time.monotonic())
            await self._window.acquire()
            self._under_way.spawn(self._publish_one(count))
            count += 1
            due += self._interval_s
            if due < time.monotonic() - _LATE_S:
                due = time.monotonic()

    async def _publish_one(self, count: int) -> None:
        room = self._rooms[count % len(self._rooms)]
        key = Key(self._number, count)
        self._ledger.publish(key, room, time.monotonic())
        try:
            seq = await self.client.publish(room, {**key._asdict(), "padding": self._padding})
            self._ledger.acknowledge(key, seq, time.monotonic())
        except PublishError as exc:
            self.refused[exc.code] += 1
            if exc.code == "forbidden":
                self._fail(f"a publish of {self.user} is refused: {exc}")
        except Closed:
            pass  # the outcome stays unknown; a refused client has reported that already
        finally:
            self._window.release()

    def _on_state(self, state: State, why: str) -> None:
        super()._on_state(state, why)
        if state is State.CONNECTED:
            self._is_back()
