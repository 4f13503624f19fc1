# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The longest stall of a worker's event loop, by its own metric, for inputs of a client or of Redis
that cost it much.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from bench.generator import BenchError, Generator, Step, text_frame
from bench.peers import SIGNING_KEY, Node
from bench.peers.ws_server import WsServer
from bench.swarm import Swarm
from bench.trials import MEMBERS, Bench

_PAUSE_S = 0.3  # several ticks of the metric
_LARGE = b"x" * 60_000
_LARGE_MESSAGES = 12
_BURST = 50
_ASKED_BYTES = 79 * 1024
_BRACKETS = b"[" + b"[]," * 20_000 + b"[]]"


def stalls(bench: Bench, peer: WsServer) -> dict[str, Any]:
    """Seconds by input: the upper bound of the highest bucket in which a tick of the loop was late."""
    with bench.swarm(peer) as swarm:
        [node] = swarm.nodes
        trial = _Trial(bench, swarm)
        longest: dict[str, float] = {}
        before = _ticks(node)
        for what, work in trial.inputs():
            work()
            bench.generator.read_for(_PAUSE_S)
            after = _ticks(node)
            longest[what] = max((bound for bound, count in after.items() if count > before[bound]), default=0.0)
            before = after
    return {"connections": bench.scale.crowd, "longest_s": longest}


def _ticks(node: Node) -> dict[float, int]:
    """The number of ticks in each bucket, by the bucket's upper bound."""
    connection = HTTPConnection("127.0.0.1", node.port)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    [family] = [one for one in text_string_to_metric_families(page) if one.name == "ws_event_loop_lag_seconds"]
    upto = {float(sample.labels["le"]): int(sample.value) for sample in family.samples if "le" in sample.labels}
    counts = list(upto.values())
    return {bound: count - less for bound, count, less in zip(upto, counts, [0, *counts], strict=False)}


class _Trial:
    def __init__(self, bench: Bench, swarm: Swarm) -> None:
        self._generator: Generator = bench.generator
        self._redis_url = bench.stores.redis_url
        self._scale = bench.scale
        self._swarm = swarm
        self._numbers = itertools.count(1)

    def inputs(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """The inputs, and the work that gives each to the worker."""
        crowd, half = self._scale.crowd, self._scale.crowd // 2
        yield f"{crowd:,} handshakes, each with three joins", lambda: self._connect(crowd, half)
        yield (
            f"{self._scale.idle_s:.0f} s without messages: the positions of all rooms are compared with Redis",
            self._wait,
        )
        yield f"one message to {half:,} members", self._repeated(self._messages, half, 1)
        yield f"{_BURST} messages at once to {half:,} members", self._repeated(self._messages, half, _BURST)
        yield f"{crowd // 10:,} joins of a room whose members hear of each other", lambda: self._watch(crowd // 10)
        yield f"a join and a leave before {crowd // 10:,} members", self._repeated(self._come_and_go)
        yield f"a read of {_ASKED_BYTES // 1024} KiB of requests for large pages", self._history
        yield "64 KiB of brackets as a message", self._repeated(self._brackets)
        yield "a disconnect order for one user", self._repeated(self._disconnect)
        yield "Redis drops the worker's connections", self._drop_redis
        yield f"{crowd // 10:,} clients end at once", lambda: self._end(crowd // 10)

    def _repeated(self, work: Callable[..., None], *arguments: Any) -> Callable[[], None]:
        def repeated() -> None:
            for _time in range(self._scale.rounds):
                work(*arguments)
                self._generator.read_for(_PAUSE_S)

        return repeated

    def _connect(self, crowd: int, half: int) -> None:
        clients = self._swarm.connect([f"room{number // MEMBERS}" for number in range(crowd)])
        self._swarm.join(clients)
        self._generator.converse(clients, lambda client: [_join(f"pair{client.number // 2}")])
        self._generator.converse(clients[:half], lambda _client: [_join("lobby")])

    def _wait(self) -> None:
        self._generator.read_for(self._scale.idle_s)

    def _messages(self, members: int, count: int) -> None:
        wanted = self._generator.delivered + members * count
        self._send(0, b"".join(self._swarm.peer.publish("lobby", next(self._numbers)) for _message in range(count)))
        self._generator.await_deliveries(wanted)

    def _watch(self, members: int) -> None:
        self._generator.converse(self._swarm.clients[-members:], lambda _client: [_join("watched", members=True)])

    def _come_and_go(self) -> None:
        self._converse(0, _join("watched"))
        self._converse(0, Step(_command(type="leave", room="watched"), b'"type":"left"'))

    def _history(self) -> None:
        publish = b'{"type":"publish","room":"large","id":"%d","data":"%s"}'
        for _message in range(_LARGE_MESSAGES):
            self._converse(1, Step(text_frame(publish % (next(self._numbers), _LARGE)), b'"type":"ack"'))
        ask = _command(type="history", room="large", limit=100)
        self._send(1, ask * (_ASKED_BYTES // len(ask)))
        self._generator.read_for(self._scale.latency_s)

    def _brackets(self) -> None:
        publish = b'{"type":"publish","room":"brackets","id":"%d","data":%s}'
        self._send(2, text_frame(publish % (next(self._numbers), _BRACKETS)))

    def _disconnect(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._swarm.nodes[0].api_port)
        connection.request("POST", "/v1/users/absent/disconnect", "{}", {"Authorization": f"Bearer {SIGNING_KEY}"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status >= 300:
            raise BenchError(f"the order was answered {answer.status}: {body!r}")

    def _drop_redis(self) -> None:
        with Redis.from_url(self._redis_url) as redis:
            for kind in ("normal", "pubsub"):
                redis.client_kill_filter(_type=kind)
        self._generator.read_for(self._scale.idle_s)

    def _end(self, count: int) -> None:
        self._generator.disconnect(self._swarm.clients[:count])
        del self._swarm.clients[:count]

    def _send(self, client: int, data: bytes) -> None:
        self._generator.send(self._swarm.clients[client], data)

    def _converse(self, client: int, step: Step) -> None:
        self._generator.converse([self._swarm.clients[client]], lambda _client: [step])


def _join(room: str, **options: bool) -> Step:
    return Step(_command(type="join", room=room, **options), b'"type":"joined"')


def _command(**fields: Any) -> bytes:
    return text_frame(json.dumps(fields).encode())
