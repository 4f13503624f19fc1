# SPDX-License-Identifier: MIT
"""The registry and the drain, with connections that record calls and a clock that the test sets."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.clock import JumpingLoop

from wsserver.protocol.events import Reconnect
from wsserver.transport import registry as registry_module
from wsserver.transport.drain import drain
from wsserver.transport.registry import ConnectionRegistry


class Connection:
    def __init__(self, registry: ConnectionRegistry, connect: bool = True, user: str = "alice") -> None:
        self.visit_at = 0
        self.notes: list[str] = []
        self.id = uuid.uuid4()
        self.session = SimpleNamespace(
            paused=False,
            paused_at=0.0,
            retiring=False,
            expiry_announced=False,
            identity=SimpleNamespace(user=user, expires=math.inf),
            send=self.send,
            tell_expiry=self.tell_expiry,
        )
        self.retire_at = math.inf
        self.heard = True
        self.holding = False
        self.hint: Reconnect | None = None
        self._registry: Any = registry
        self._registry.opened(self)
        if connect:
            self._registry.connected(self)

    def send(self, event: Reconnect) -> None:
        self.hint = event
        self.notes.append("hint")

    def tell_expiry(self) -> None:
        self.session.expiry_announced = True
        self.notes.append("expiring")

    def time_out(self) -> None:
        self.notes.append("time out")
        self._registry.lost(self)

    def ping(self) -> None:
        self.notes.append("ping")

    def close(self, code: int, reason: str) -> None:
        self.notes.append(f"close {int(code)}")
        self._registry.closing(self)

    def abort(self) -> None:
        self.notes.append("abort")
        self._registry.lost(self)


class Clock:
    """The monotonic and the wall clock, which agree here."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[ConnectionRegistry, int], None]:
    clock = Clock()
    monkeypatch.setattr(registry_module, "time", clock)

    def seconds_pass(registry: ConnectionRegistry, seconds: int) -> None:
        for _ in range(seconds):
            clock.now += 1
            registry.tick()

    return seconds_pass


def test_every_connection_is_pinged_once_a_heartbeat(passes: Callable[[ConnectionRegistry, int], None]) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=5, slow_client_s=30)
    connections = [Connection(registry) for _ in range(100)]
    passes(registry, 5)
    assert all(connection.notes == ["ping"] for connection in connections)
    for connection in connections:
        connection.heard = True
    passes(registry, 5)
    assert all(connection.notes == ["ping"] * 2 for connection in connections)


def test_pings_are_spread_over_the_heartbeat(passes: Callable[[ConnectionRegistry, int], None]) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=30, slow_client_s=30)
    connections = [Connection(registry) for _ in range(3000)]
    before = 0
    for _ in range(30):
        passes(registry, 1)
        pinged = sum(len(connection.notes) for connection in connections)
        assert 50 <= pinged - before <= 200
        before = pinged


def test_a_silent_connection_is_closed_and_then_cut(passes: Callable[[ConnectionRegistry, int], None]) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=5, slow_client_s=30)
    silent = Connection(registry)
    passes(registry, 10)
    assert silent.notes == ["ping", "close 1011"]
    assert not registry.open_connections
    passes(registry, 7)
    assert silent.notes == ["ping", "close 1011", "abort"]
    assert registry.idle


def test_a_connection_that_this_worker_does_not_read_is_not_taken_for_dead(
    passes: Callable[[ConnectionRegistry, int], None],
) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=5, slow_client_s=30)
    waiting = Connection(registry)
    waiting.holding = True
    passes(registry, 20)
    assert waiting.notes == ["ping"] * 4


def test_a_client_that_does_not_read_is_closed_after_its_time(
    passes: Callable[[ConnectionRegistry, int], None],
) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=2, slow_client_s=10)
    slow = Connection(registry)
    slow.session.paused, slow.session.paused_at = True, 1000.0
    passes(registry, 10)
    assert slow.notes == []
    passes(registry, 3)
    assert slow.notes == ["close 1013"]


def test_a_handshake_has_its_time(passes: Callable[[ConnectionRegistry, int], None]) -> None:
    # A heartbeat longer than this test: the order of pings is random, and an unanswered ping would
    # end a connection.
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=60, slow_client_s=30)
    stuck, quick = Connection(registry, connect=False), Connection(registry)
    passes(registry, 9)
    assert stuck.notes == []
    passes(registry, 3)
    assert stuck.notes == ["time out"]
    assert "time out" not in quick.notes


def test_an_expiring_token_is_announced_and_then_ends_the_connection(
    passes: Callable[[ConnectionRegistry, int], None],
) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=2, slow_client_s=30)
    connection = Connection(registry)
    connection.session.identity.expires = 1000.0 + 80
    heard(connection, passes, registry, 16)
    assert "expiring" not in connection.notes
    heard(connection, passes, registry, 4)
    assert connection.notes.count("expiring") == 1
    heard(connection, passes, registry, 59)
    assert "close 1008" not in connection.notes
    heard(connection, passes, registry, 3)
    assert connection.notes[-1] == "close 1008"
    assert connection.notes.count("expiring") == 1


def test_the_expiry_of_a_fresh_token_is_announced_again(passes: Callable[[ConnectionRegistry, int], None]) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=2, slow_client_s=30)
    connection = Connection(registry)
    connection.session.identity.expires = 1000.0 + 50
    heard(connection, passes, registry, 4)
    connection.session.identity.expires, connection.session.expiry_announced = 1000.0 + 200, False
    heard(connection, passes, registry, 156)
    assert connection.notes.count("expiring") == 2
    assert "close 1008" not in connection.notes


def test_a_connection_that_is_old_enough_is_asked_to_reconnect_and_then_closed(
    passes: Callable[[ConnectionRegistry, int], None],
) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=5, slow_client_s=30)
    connection = Connection(registry)
    connection.retire_at = 1000.0 + 20
    heard(connection, passes, registry, 20)
    assert "hint" not in connection.notes
    heard(connection, passes, registry, 5)
    assert connection.notes.count("hint") == 1
    assert "close 1001" not in connection.notes
    heard(connection, passes, registry, 5)
    assert connection.notes[-1] == "close 1001"


def test_each_deadline_is_exact_whatever_the_heartbeat(passes: Callable[[ConnectionRegistry, int], None]) -> None:
    registry: Any = ConnectionRegistry(handshake_s=10, heartbeat_s=60, slow_client_s=30)
    short, full, slow, old = connections = [Connection(registry) for _ in range(4)]
    short.session.identity.expires = 1000.0 + 7
    full.session.identity.expires = 1000.0 + 8
    for paused in (full, slow):
        paused.session.paused, paused.session.paused_at = True, 1000.0
    old.retire_at = 1000.0 + 9
    for connection in connections:
        connection.heard = True
        registry.schedule(connection)
    due = {(short, "close 1008"): 7, (full, "close 1008"): 8, (slow, "close 1013"): 30, (old, "hint"): 9}
    seen: dict[tuple[Connection, str], int] = {}
    for second in range(1, 35):
        passes(registry, 1)
        for connection, note in due:
            if note in connection.notes:
                seen.setdefault((connection, note), second)
    assert all(due[key] <= second <= due[key] + 2 for key, second in seen.items()), seen
    assert seen.keys() == due.keys()
    assert not any(short in visit for visit in registry._visits.values())


def test_a_fault_with_one_connection_ends_that_one_only(passes: Callable[[ConnectionRegistry, int], None]) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=2, slow_client_s=30)
    faulty, *others = (Connection(registry) for _ in range(5))

    def fail() -> None:
        raise ValueError("a fault")

    faulty.ping = fail  # type: ignore[method-assign]
    passes(registry, 2)
    assert faulty.notes == ["abort"]
    assert all(other.notes == ["ping"] for other in others)


def test_a_token_for_a_short_time_is_announced_at_once(passes: Callable[[ConnectionRegistry, int], None]) -> None:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=60, slow_client_s=30)
    connection = Connection(registry)
    connection.session.identity.expires = 1000.0 + 20
    registry.schedule(connection)
    passes(registry, 2)
    assert "expiring" in connection.notes


def test_the_connections_of_a_user() -> None:
    registry: Any = ConnectionRegistry(handshake_s=10, heartbeat_s=5, slow_client_s=30)
    one, two, three = (Connection(registry, user="alice") for _ in range(3))
    bob = Connection(registry, user="bob")
    assert set(registry.of_user("alice")) == {one, two, three}
    assert registry.of_user("bob") == [bob]
    assert registry.of_user("carol") == []
    registry.lost(two)
    registry.closing(one)
    registry.lost(one)
    assert registry.of_user("alice") == [three]
    registry.lost(three)
    registry.lost(bob)
    assert registry.of_user("alice") == registry.of_user("bob") == []
    assert registry._by_user == {}


def test_a_connection_by_its_id() -> None:
    registry: Any = ConnectionRegistry(handshake_s=10, heartbeat_s=5, slow_client_s=30)
    connections = [Connection(registry) for _ in range(20)]
    assert all(registry.by_id(connection.id.hex) == [connection] for connection in connections)
    assert registry.by_id("0" * 32) == registry.by_id("no id") == []


async def test_a_session_that_is_throttled_again_at_once_stays_throttled() -> None:
    registry: Any = ConnectionRegistry(handshake_s=10, heartbeat_s=60, slow_client_s=30)
    connection = Connection(registry)
    asked: list[bool] = []

    def resume_if_paid() -> bool:
        registry.throttled(connection)
        asked.append(True)
        return True

    connection.session.resume_if_paid = resume_if_paid
    registry.throttled(connection)
    for _ in range(3):
        registry.tick()
        await asyncio.sleep(0.01)
    assert len(asked) == 3


async def test_a_throttled_connection_is_asked_each_second_whether_it_may_go_on() -> None:
    registry: Any = ConnectionRegistry(handshake_s=10, heartbeat_s=60, slow_client_s=30)
    connection = Connection(registry)
    answers = [False, False, True]
    connection.session.resume_if_paid = lambda: answers.pop(0)
    registry.throttled(connection)
    for _ in range(5):
        registry.tick()
        await asyncio.sleep(0.01)
    assert answers == []


def heard(
    connection: Connection,
    passes: Callable[[ConnectionRegistry, int], None],
    registry: ConnectionRegistry,
    seconds: int,
) -> None:
    """Advance the clock while the client is never silent."""
    for _ in range(seconds):
        connection.heard = True
        passes(registry, 1)


async def test_lost_in_any_state_leaves_nothing() -> None:
    registry: Any = ConnectionRegistry(handshake_s=10, heartbeat_s=5, slow_client_s=30)
    handshaking, open_, closing = Connection(registry, connect=False), Connection(registry), Connection(registry)
    registry.closing(closing)
    assert not registry.idle
    for connection in (handshaking, open_, closing):
        registry.lost(connection)
    assert registry.idle


def drained(count: int, window_s: float, leave_on_close: bool = True) -> tuple[list[Connection], float]:
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=25, slow_client_s=30)
    connections = [Connection(registry) for _ in range(count)]
    if leave_on_close:
        for connection in connections:
            connection.close = lambda code, _, c=connection: (  # type: ignore[method-assign, misc]
                c.notes.append(f"close {int(code)}"),
                c._registry.lost(c),
            )
    loop = JumpingLoop()
    try:
        loop.run_until_complete(drain(registry, window_s))
        return connections, loop.time()
    finally:
        loop.close()


def test_a_drain_sends_reconnect_and_then_closes_all() -> None:
    connections, took_s = drained(2000, window_s=5)
    assert all(connection.notes == ["hint", "close 1001"] for connection in connections)
    after = [connection.hint.after_ms for connection in connections if connection.hint]
    assert min(after) < 50 < 450 < max(after) <= 500
    assert 4 <= took_s <= 8


def test_a_client_that_connects_while_the_worker_drains_is_sent_away_as_well() -> None:
    """The acceptor had spent its ticket when the drain began, so it could not refuse the client."""
    registry = ConnectionRegistry(handshake_s=10, heartbeat_s=25, slow_client_s=30)
    first, late = Connection(registry), Connection(registry, connect=False)
    first_close = first.close
    loop = JumpingLoop()

    def close(code: int, reason: str) -> None:
        first_close(code, reason)
        registry.lost(first)  # type: ignore[arg-type]
        registry.connected(late)  # type: ignore[arg-type]

    first.close = close  # type: ignore[method-assign]
    try:
        loop.run_until_complete(drain(registry, 0))
    finally:
        loop.close()
    assert late.notes == ["close 1001"]


def test_a_drain_of_few_or_none_does_not_take_the_window() -> None:
    assert drained(3, window_s=60)[1] < 3
    assert drained(0, window_s=60)[1] < 1


def test_a_drain_does_not_wait_for_ever() -> None:
    connections, took_s = drained(3, window_s=0, leave_on_close=False)
    assert all(connection.notes == ["hint", "close 1001"] for connection in connections)
    assert took_s < 6
