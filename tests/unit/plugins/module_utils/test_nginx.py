# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A change applied to a real nginx, and every way in which this can fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from edge import Edge
from program import ROOT, eventually

from ansible_collections.selfhost.websocket.plugins.module_utils._nginx import Nginx, NotAppliedError
from ansible_collections.selfhost.websocket.plugins.module_utils._upstream import marked, servers, without

ALL_DOWN = {"127.0.0.1:7", "127.0.0.2:7", "127.0.0.2:9"}


@pytest.fixture
def nginx(edge: Edge) -> Nginx:
    return Nginx(edge.path)


def out(*addresses: str, by: str = "test"):
    return lambda configuration: marked(configuration, "ws", by, addresses)


def listening_on(port: int):
    return lambda configuration: configuration.replace("listen ", f"listen 127.0.0.1:{port};\n        listen ", 1)


def down_by(edge: Edge) -> list[tuple[str, ...]]:
    return [server.down_by for server in servers(edge.path.read_text(), "ws")]


def leftovers(edge: Edge) -> list[str]:
    return [path.name for path in edge.path.parent.iterdir() if "staged" in path.name]


def test_a_change_is_in_force_when_apply_returns(edge, nginx):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    applied = nginx.apply(listening_on(port))
    assert applied.reloaded
    assert applied.after == edge.path.read_text() != applied.before
    for _time in range(20):
        socket.create_connection(("127.0.0.1", port)).close()
    assert not nginx.needs_reload()
    assert leftovers(edge) == []


def test_the_same_change_again_does_not_reload(edge, nginx):
    assert nginx.apply(out("127.0.0.1:7")).reloaded
    written = edge.path.stat()
    again = nginx.apply(out("127.0.0.1:7"))
    assert (again.reloaded, again.before) == (False, again.after)
    assert edge.path.stat() == written


def test_mode_and_owner_stay(edge, nginx):
    edge.path.chmod(0o640)
    nginx.apply(out("127.0.0.1:7"))
    assert edge.path.stat().st_mode & 0o777 == 0o640


def test_the_master_is_never_replaced_and_clients_stay(edge, nginx):
    client = edge.slow_client()
    for number in range(3):
        assert nginx.apply(out(f"127.0.0.2:{7 + number % 2 * 2}")).reloaded
    assert nginx.lingering() == 1
    assert edge.serves()
    assert client.recv(10)
    client.close()
    eventually(lambda: nginx.lingering() == 0, "the old process ends with its last client")
    assert os.kill(edge.pid, 0) is None


def test_an_invalid_configuration_changes_nothing(edge, nginx):
    before, written = edge.path.read_text(), edge.path.stat()
    with pytest.raises(NotAppliedError, match=r"no servers are inside upstream"):
        nginx.apply(lambda configuration: without(configuration, "ws", ALL_DOWN))
    assert (edge.path.read_text(), edge.path.stat()) == (before, written)
    assert leftovers(edge) == []
    assert edge.serves()
    assert nginx.lingering() == 0


def test_a_change_that_cannot_be_decided_changes_nothing(edge, nginx):
    written = edge.path.stat()
    with pytest.raises(ZeroDivisionError):
        nginx.apply(lambda configuration: str(1 / 0))
    assert edge.path.stat() == written


def test_a_refused_reload_brings_the_old_file_back(edge, nginx):
    """A port that another program holds passes nginx's own test, and fails the reload."""
    before, written = edge.path.read_text(), edge.path.stat()
    refused = pytest.raises(NotAppliedError, match="did not load the new configuration")
    with socket.create_server(("127.0.0.1", 0)) as taken, refused:
        nginx.apply(listening_on(taken.getsockname()[1]))
    assert edge.path.read_text() == before
    assert edge.path.stat().st_mtime_ns == written.st_mtime_ns
    assert leftovers(edge) == []
    assert edge.serves()
    assert not nginx.needs_reload()
    assert nginx.apply(out("127.0.0.1:7")).reloaded, "the next change goes through"


def test_no_new_request_goes_to_a_server_that_is_out(edge, nginx):
    assert nginx.apply(out("127.0.0.2:7", "127.0.0.2:9")).reloaded
    assert [edge.request() for _time in range(5)] == [(502, ["127.0.0.1:7"])] * 5
    nginx.apply(out(*ALL_DOWN))
    assert edge.request() == (502, ["ws"]), "no server was tried"


def test_without_a_running_nginx_the_file_is_written(edge, nginx):
    edge.stop()
    assert not nginx.apply(out("127.0.0.1:7")).reloaded
    assert down_by(edge) == [("test",), (), ()]
    edge.start()
    assert not nginx.needs_reload()


def test_without_a_running_nginx_a_bad_file_is_not_written(edge, nginx):
    edge.stop()
    with pytest.raises(NotAppliedError, match="no servers are inside upstream"):
        nginx.apply(lambda configuration: without(configuration, "ws", ALL_DOWN))
    edge.start()


def test_the_pid_of_another_program_is_left_alone(edge, nginx, tmp_path):
    edge.stop()
    with subprocess.Popen(["sleep", "300"]) as other:
        (tmp_path / "nginx.pid").write_text(f"{other.pid}\n")
        assert not nginx.apply(out("127.0.0.1:7")).reloaded
        assert other.poll() is None
        other.kill()


KILLED = """
import os, signal, sys
from pathlib import Path
import _nginx, _upstream

class Killed(_nginx.Nginx):
    def {where}(self, *arguments):
        os.kill(os.getpid(), signal.SIGKILL)

change = lambda text: _upstream.marked(text, "ws", "test", {{"127.0.0.1:7"}})
Killed(Path(sys.argv[1])).apply(change)
"""


@pytest.mark.parametrize("where", ["_test", "_swap", "_reload"])
def test_the_next_run_completes_a_killed_run(edge, nginx, where):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(where=where), edge.path],
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "plugins/module_utils")},
    )
    assert killed.returncode == -signal.SIGKILL
    assert edge.serves()
    applied = nginx.apply(out("127.0.0.1:7"))
    assert applied.reloaded
    assert leftovers(edge) == []
    assert down_by(edge) == [("test",), (), ()]
    assert not nginx.apply(out("127.0.0.1:7")).reloaded


def test_a_file_written_without_a_reload_is_detected(edge, nginx):
    assert not nginx.needs_reload()
    edge.write("127.0.0.3:7")
    assert nginx.needs_reload()
    assert nginx.apply(lambda configuration: configuration).reloaded
    assert not nginx.needs_reload()


def test_concurrent_changes_are_all_applied(edge, nginx):
    """Two programs add and remove their own marks, like the watcher and an operator."""

    def toggle(name: str) -> None:
        for number in range(6):
            mine = Nginx(edge.path)
            mine.apply(out(*([] if number % 2 else ["127.0.0.1:7"]), by=name))
        mine.apply(out("127.0.0.2:7", by=name))

    threads = [threading.Thread(target=toggle, args=[name]) for name in ("watcher", "ops")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert down_by(edge) == [(), ("ops", "watcher"), ()]
    assert leftovers(edge) == []
    assert edge.serves()
