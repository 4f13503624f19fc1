# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The edge watcher as a process, a real nginx, and workers that answer, refuse, or drop packets."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from _nginx import Nginx
from _upstream import marked, servers
from edge import Edge
from program import ROOT, eventually
from support.ports import free_port

from ansible_collections.selfhost.websocket.plugins.action.zipapp import archive


class Worker:
    """Answers /readyz with `status` at an address of loopback that stands for a host."""

    def __init__(self, host: str, port: int = 0) -> None:
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(worker.status)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.status = 200
        self._host = host
        self._server = ThreadingHTTPServer((host, port), Handler)
        self.address = f"{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Hole:
    """Drops packets: the queue of its listener is full, so the kernel drops each further SYN."""

    def __init__(self, address: str) -> None:
        host, _colon, port = address.rpartition(":")
        self._listener = socket.create_server((host, int(port)), backlog=0)
        self._queue = []
        while True:
            client = socket.socket()
            self._queue.append(client)
            client.settimeout(0.5)
            try:
                client.connect((host, int(port)))
            except TimeoutError:
                return

    def fill(self) -> None:
        for client in (self._listener, *self._queue):
            client.close()


# An address that this host does not have, which must not affect the watcher.
AWAY = ["--metrics-address", "203.0.113.9"]


def program() -> bytes:
    """The watcher as the role installs it."""
    tasks = yaml.safe_load((ROOT / "roles/nginx/tasks/watcher.yml").read_text())
    (shipped,) = [task["selfhost.websocket.zipapp"] for task in tasks if "selfhost.websocket.zipapp" in task]
    role = ROOT / "roles/nginx"
    sources = [role / "files" / source.replace("{{ role_path }}", str(role)) for source in shipped["src"]]
    return archive(sources, shipped["main"])


class Watcher:
    def __init__(self, edge: Edge, journal: Path) -> None:
        self._port = free_port()
        self._program = journal.with_name("watcher.pyz")
        self._program.write_bytes(program())
        self._journal = journal
        self._edge = edge
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-I", self._program, "--configuration", self._edge.path]
        with self._journal.open("ab") as journal:
            self.process = subprocess.Popen(
                [*command, "--metrics-port", str(self._port), "--metrics-address", "127.0.0.2", *AWAY],
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
            )
        eventually(lambda: self.metrics().get("ws_edge_last_poll_timestamp_seconds", 0) > 0, "the watcher polls")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def metrics(self, address: str = "127.0.0.1") -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://{address}:{self._port}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            assert self.process.poll() is None, self._journal.read_text()
            return {}
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _space, value in samples}

    def log(self) -> list[tuple[str, str]]:
        lines = map(json.loads, self._journal.read_text().splitlines())
        return [(line["event"], line.get("host", "")) for line in lines if line["event"] != "metrics_wait"]


A, B = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    started = [Worker(A), Worker(B), Worker(B)]
    yield started
    for worker in started:
        with contextlib.suppress(OSError):
            worker.stop()


@pytest.fixture
def edge(tmp_path: Path, workers: list[Worker]) -> Iterator[Edge]:
    started = Edge(tmp_path, *(worker.address for worker in workers))
    started.start()
    yield started
    started.stop()


@pytest.fixture
def watcher(edge: Edge, tmp_path: Path) -> Iterator[Watcher]:
    started = Watcher(edge, tmp_path / "journal")
    yield started
    started.stop()


def held(edge: Edge) -> set[str]:
    return {server.host for server in servers(edge.path.read_text(), "ws") if "watcher" in server.down_by}


def polls(watcher: Watcher, count: int) -> None:
    """Wait for a number of polls."""
    seen: set[float] = set()
    eventually(
        lambda: seen.add(watcher.metrics().get("ws_edge_last_poll_timestamp_seconds", 0)) or len(seen) > count,
        f"{count} polls",
    )


def tried(edge: Edge, times: int = 12) -> set[str]:
    """The servers that nginx tried for a number of requests, all of which succeed."""
    found: set[str] = set()
    for _time in range(times):
        status, addresses = edge.request()
        assert status == 200
        found.update(addresses)
    return found


def test_a_host_that_drops_packets_is_taken_out_and_returned(watcher, edge, workers):
    client = edge.slow_client()
    for worker in workers[1:]:
        worker.stop()
    holes = [Hole(worker.address) for worker in workers[1:]]
    took = eventually(lambda: held(edge) == {B}, "the dead host is out")
    print(f"out after {took:.1f} s")
    eventually(lambda: watcher.metrics()["ws_edge_reloads_total"] == 1, "the reload")
    assert tried(edge) == {workers[0].address}
    metrics = watcher.metrics("127.0.0.2")
    assert metrics[f'ws_edge_server_up{{server="{workers[0].address}"}}'] == 1
    assert metrics[f'ws_edge_server_up{{server="{workers[1].address}"}}'] == 0
    assert metrics[f'ws_edge_server_down_by{{by="watcher",server="{workers[2].address}"}}'] == 1
    assert metrics[f'ws_edge_server_answer{{answer="silent",server="{workers[2].address}"}}'] == 1
    assert metrics["ws_edge_nginx_lingering_processes"] == 1

    for hole in holes:
        hole.fill()
    polls(watcher, 5)
    assert held(edge) == {B}, "refused connections are no reason to come back"
    workers[1:] = [Worker(B, int(worker.address.rpartition(":")[2])) for worker in workers[1:]]
    eventually(lambda: held(edge) == set(), "the host is back")
    eventually(lambda: watcher.metrics()["ws_edge_reloads_total"] == 2, "the reload")
    assert tried(edge) == {worker.address for worker in workers}
    assert client.recv(10), "a client from before is still served"
    client.close()
    assert watcher.log() == [("out", B), ("back", B)]


def test_refusals_and_503_change_nothing(watcher, edge, workers):
    workers[1].status = 503
    workers[2].stop()
    polls(watcher, 6)
    assert held(edge) == set()
    metrics = watcher.metrics()
    assert metrics[f'ws_edge_server_answer{{answer="ready",server="{workers[0].address}"}}'] == 1
    assert metrics[f'ws_edge_server_answer{{answer="not_ready",server="{workers[1].address}"}}'] == 1
    assert metrics[f'ws_edge_server_answer{{answer="refused",server="{workers[2].address}"}}'] == 1
    assert metrics["ws_edge_reloads_total"] == 0


def test_a_worker_that_accepts_without_an_answer_is_not_a_dead_host(watcher, edge, workers):
    workers[1].stop()
    workers[2].stop()
    with contextlib.ExitStack() as listeners:
        for worker in workers[1:]:
            host, _colon, port = worker.address.rpartition(":")
            listeners.enter_context(socket.create_server((host, int(port)), backlog=1000))
        polls(watcher, 6)
        assert held(edge) == set()
        assert watcher.metrics()[f'ws_edge_server_answer{{answer="mute",server="{workers[1].address}"}}'] == 1


def test_an_operators_mark_stays_beside_the_watchers_mark(watcher, edge, workers):
    nginx = Nginx(edge.path)
    out = {workers[1].address, workers[2].address}
    nginx.apply(lambda text: marked(text, "ws", "ops", out))
    polls(watcher, 6)
    assert [server.down_by for server in servers(edge.path.read_text(), "ws")] == [(), ("ops",), ("ops",)]
    for worker in workers[1:]:
        worker.stop()
    holes = [Hole(worker.address) for worker in workers[1:]]
    polls(watcher, 5)
    assert held(edge) == set(), "the host is out already, so the watcher adds no mark"
    nginx.apply(lambda text: marked(text, "ws", "ops", set()))
    eventually(lambda: held(edge) == {B}, "and is taken out when the operator is done")
    for hole in holes:
        hole.fill()


def test_a_rewritten_file_gets_the_marks_again(watcher, edge, workers):
    for worker in workers[1:]:
        worker.stop()
    holes = [Hole(worker.address) for worker in workers[1:]]
    eventually(lambda: held(edge) == {B}, "the dead host is out")
    edge.write(*(worker.address for worker in workers))
    eventually(lambda: held(edge) == {B}, "and once more")
    for hole in holes:
        hole.fill()


def test_the_watcher_survives_a_stopped_nginx_and_a_broken_file(watcher, edge, workers):
    edge.stop()
    good = edge.path.read_text()
    edge.path.write_text("nonsense {")
    polls(watcher, 2)
    edge.path.unlink()
    polls(watcher, 2)
    edge.path.write_text(good)
    for worker in workers[1:]:
        worker.stop()
    holes = [Hole(worker.address) for worker in workers[1:]]
    eventually(lambda: held(edge) == {B}, "the mark is written for the next start")
    assert watcher.metrics()["ws_edge_reloads_total"] == 0
    edge.start()
    assert tried(edge) == {workers[0].address}
    assert [event for event, _host in watcher.log()] == ["unreadable", "unreadable", "out"]
    for hole in holes:
        hole.fill()


def test_a_killed_watcher_continues_after_its_restart(watcher, edge, workers):
    for worker in workers[1:]:
        worker.stop()
    holes = [Hole(worker.address) for worker in workers[1:]]
    eventually(lambda: held(edge) == {B}, "the dead host is out")
    watcher.process.kill()
    watcher.process.wait()
    watcher.start()
    polls(watcher, 5)
    assert held(edge) == {B}
    for hole in holes:
        hole.fill()
    workers[1:] = [Worker(B, int(worker.address.rpartition(":")[2])) for worker in workers[1:]]
    eventually(lambda: held(edge) == set(), "the host is back")
