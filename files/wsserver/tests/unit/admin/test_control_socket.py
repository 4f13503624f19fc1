# SPDX-License-Identifier: MIT
"""The control socket and `ws-server ctl`, over real Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.controlled import Typed, Worker, socket_of
from support.wait import until
from support.worker import environment

from wsserver.admin import control_socket as control
from wsserver.admin import ctl
from wsserver.admin.control_socket import ControlSocket
from wsserver.status import BrokerStatus
from wsserver.transport.drain import DrainHeldByOthers, WorkerDrain


class Operator:
    """One connection to a control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, command: Any) -> None:
        line = command if isinstance(command, bytes) else json.dumps(command).encode()
        self.writer.write(line + b"\n")

    async def line(self) -> Any:
        return json.loads(await asyncio.wait_for(self.reader.readline(), 20))

    async def ask(self, command: Any) -> Any:
        self.send(command)
        return await self.line()

    async def error(self, command: Any) -> tuple[str, str]:
        answer = await self.ask(command)
        assert answer.keys() == {"error"}, answer
        return answer["error"]["code"], answer["error"]["message"]

    async def closed(self) -> bool:
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.wait_for(self.reader.read(), 20) == b""
        return True


@pytest.fixture
def path(run_directory: Path) -> Path:
    return socket_of(run_directory, "80")


@pytest.fixture
async def worker(path: Path) -> AsyncIterator[Worker]:
    worker = Worker()
    served = ControlSocket(path, worker)
    await served.start()
    yield worker
    await served.stop()


@pytest.fixture
async def dial(path: Path) -> AsyncIterator[Callable[[], Any]]:
    opened: list[Operator] = []

    async def dial_now() -> Operator:
        opened.append(Operator(*await asyncio.open_unix_connection(path)))
        return opened[-1]

    yield dial_now
    for operator in opened:
        operator.writer.close()


Dial = Callable[[], Any]


# Commands.


async def test_status(worker: Worker, dial: Dial) -> None:
    operator = await dial()
    for _ in range(3):
        answer = await operator.ask({"cmd": "status", "of a later release": 1})
        status = answer["result"]
        assert (status["state"], status["version"], status["pid"]) == ("ready", "1.2.3", os.getpid())
        assert (status["connections"], status["handshaking"], status["closing"], status["rooms"]) == (5, 1, 0, 2)
        assert (status["broker"], status["archive"]["pending"]) == (
            {"available": True, "fullness": 0.0, "disk_full": False},
            12,
        )
        assert status["drained_by"] == []


async def test_a_drain_reports_progress_and_leaves_the_process_running(worker: Worker, dial: Dial) -> None:
    operator = await dial()
    operator.send({"cmd": "drain", "by": "ops", "window_s": 7})
    for _ in range(3):
        progress = (await operator.line())["progress"]
        assert (progress["state"], progress["connections"], progress["drained_by"]) == ("draining", 5, ["ops"])
    worker.leave.set()
    answer = await operator.line()
    assert (answer["result"]["state"], answer["result"]["connections"]) == ("drained", 0)
    assert (await operator.ask({"cmd": "status"}))["result"]["state"] == "drained"
    assert (await operator.ask({"cmd": "drain", "by": "ops"}))["result"]["state"] == "drained", "at once"
    assert worker.windows == [7.0]
    assert (await operator.ask({"cmd": "undrain", "by": "ops"}))["result"]["state"] == "ready"
    worker.leave.clear()
    operator.send({"cmd": "drain", "by": "ops"})
    assert (await operator.line())["progress"]["state"] == "draining", "drained again"
    worker.leave.set()
    assert "result" in await operator.line()
    assert worker.windows == [7.0, None]


async def test_a_drain_continues_when_the_caller_hangs_up(worker: Worker, dial: Dial) -> None:
    operator = await dial()
    operator.send({"cmd": "drain", "by": "ops"})
    await operator.line()
    operator.writer.close()
    await asyncio.sleep(0.7)
    other = await dial()
    assert (await other.ask({"cmd": "status"}))["result"]["state"] == "draining"
    worker.leave.set()
    await until(lambda: worker.drainage.state == "drained")


async def test_holders_share_one_drain_and_each_ends_only_their_own(worker: Worker, dial: Dial) -> None:
    operator, update = await dial(), await dial()
    operator.send({"cmd": "drain", "by": "ops"})
    await operator.line()
    update.send({"cmd": "drain", "by": "update", "window_s": 1})
    assert (await update.line())["progress"]["drained_by"] == ["ops", "update"]
    worker.leave.set()
    drained = [await update.line(), await operator.line()]
    while "progress" in drained[1]:
        drained[1] = await operator.line()
    assert [answer["result"]["state"] for answer in drained] == ["drained"] * 2
    assert worker.windows == [None]
    answer = (await update.ask({"cmd": "undrain", "by": "update"}))["result"]
    assert (answer["state"], answer["drained_by"]) == ("drained", ["ops"])
    code, message = await update.error({"cmd": "undrain", "by": "update"})
    assert (code, "ops" in message) == ("not_yours", True)
    assert (await update.ask({"cmd": "status"}))["result"]["state"] == "drained"
    answer = (await update.ask({"cmd": "undrain", "by": "update", "force": True}))["result"]
    assert (answer["state"], answer["drained_by"]) == ("ready", [])
    assert (await update.ask({"cmd": "undrain", "by": "update"}))["result"]["state"] == "ready", "nothing to undo"


async def test_a_drain_can_be_ended(worker: Worker, dial: Dial) -> None:
    operator, other = await dial(), await dial()
    operator.send({"cmd": "drain", "by": "ops"})
    await operator.line()
    assert (await other.ask({"cmd": "undrain", "by": "ops"}))["result"]["state"] == "ready"
    answer = await operator.line()
    while "progress" in answer:
        answer = await operator.line()
    assert answer["error"]["code"] == "undrained"
    assert len(worker.users) == 5


async def test_a_stop_cannot_be_undrained(worker: Worker, dial: Dial) -> None:
    stopping = asyncio.create_task(worker.drainage.stop())
    operator = await dial()
    status = (await operator.ask({"cmd": "status"}))["result"]
    assert (status["state"], status["drained_by"]) == ("draining", ["stop"])
    for by, force in (("stop", False), ("ops", True)):
        code, message = await operator.error({"cmd": "undrain", "by": by, "force": force})
        assert (code, message) == ("not_yours", "the worker is stopping")
    worker.leave.set()
    await asyncio.wait_for(stopping, 20)


async def test_a_failed_drain_is_reported() -> None:
    async def send_away(window_s: float | None) -> None:
        raise ZeroDivisionError

    drainage = WorkerDrain(send_away)
    with capture_logs() as lines:
        await drainage.drain("ops")
    assert [line["event"] for line in lines] == ["drain", "drain_failed"]
    assert drainage.state == "drained"
    with pytest.raises(DrainHeldByOthers, match="ops"):
        drainage.undrain("update")


async def test_a_kick(worker: Worker, dial: Dial) -> None:
    operator = await dial()
    assert await operator.ask({"cmd": "kick", "user": "alice"}) == {"result": {"kicked": 2}}
    assert await operator.ask({"cmd": "kick", "user": "alice"}) == {"result": {"kicked": 0}}
    reason = "é" * 61 + "x"
    assert await operator.ask({"cmd": "kick", "connection": "c3", "reason": reason}) == {"result": {"kicked": 1}}
    assert worker.kicks == [("c0", DEFAULT_REASON), ("c1", DEFAULT_REASON), ("c3", reason)]


DEFAULT_REASON = "disconnected by the operator"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"status", "malformed"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `cmd`"),
        (b'{"cmd":"dance"}', "Invalid value 'dance'"),
        (b'{"cmd":"drain"}', "missing required field `by`"),
        (b'{"cmd":"drain","by":""}', "length >= 1 - at `$.by`"),
        (b'{"cmd":"drain","by":"' + b"x" * 129 + b'"}', "length <= 128 - at `$.by`"),
        (b'{"cmd":"drain","by":"a","window_s":-1}', ">= 0.0 - at `$.window_s`"),
        (b'{"cmd":"drain","by":"a","window_s":601}', "<= 600.0 - at `$.window_s`"),
        (b'{"cmd":"undrain","by":"a","force":"yes"}', "Expected `bool`"),
        (b'{"cmd":"kick"}', "user, connection: one of them"),
        (b'{"cmd":"kick","user":"a","connection":"b"}', "user, connection: one of them"),
        (b'{"cmd":"kick","user":"a","reason":"' + "é".encode() * 62 + b'"}', "at most 123 bytes"),
        (b'{"cmd":"kick","user":"\xff"}', "utf-8"),
        (b'{"cmd":"status","x":' + b"[" * 30000 + b"]" * 30000 + b"}", "nested too deeply"),
    ],
)
async def test_a_line_that_is_no_command(worker: Worker, dial: Dial, line: bytes, why: str) -> None:
    operator = await dial()
    code, message = await operator.error(line)
    assert (code, why in message) == ("bad_command", True), message
    assert "result" in await operator.ask({"cmd": "status"})
    assert (worker.kicks, worker.windows) == ([], [])


async def test_a_line_has_an_end(worker: Worker, dial: Dial) -> None:
    operator = await dial()
    assert "result" in await operator.ask(b'{"cmd":"status"}'.ljust(65535))
    code, message = await operator.error(b'{"cmd":"status"}'.ljust(70000))
    assert (code, message) == ("bad_command", "a line has at most 65536 bytes")
    assert await operator.closed()
    endless = await dial()
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            endless.writer.write(b" " * 65536)
            await endless.writer.drain()
        pytest.fail("64 MB without an end were read")
    short = await dial()
    short.writer.write(b'{"cmd":"status"}')
    short.writer.write_eof()
    assert "result" in await short.line()
    assert await short.closed()
    keys = json.dumps({"cmd": "status", **{str(n): n for n in range(4000)}})
    assert "result" in await (await dial()).ask(keys.encode())


async def test_an_internal_error_is_reported(worker: Worker, dial: Dial) -> None:
    worker.broken = True
    operator = await dial()
    with capture_logs() as lines:
        assert (await operator.error({"cmd": "status"}))[0] == "internal"
    assert [line["event"] for line in lines] == ["control_failed"]
    worker.broken = False
    assert "result" in await operator.ask({"cmd": "status"})


async def test_a_caller_that_does_not_read_or_write_is_disconnected(
    worker: Worker, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_WRITE_S", 0.2)
    deaf = await dial()
    deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
    with contextlib.suppress(ConnectionError):
        for _ in range(300):
            deaf.writer.write(b'{"cmd":"status"}\n' * 100)
            await asyncio.wait_for(deaf.writer.drain(), 20)
        pytest.fail("9 MB of answers were kept unread")
    monkeypatch.setattr(control, "_IDLE_S", 0.2)
    assert await (await dial()).closed()


async def test_many_callers_at_once(worker: Worker, dial: Dial) -> None:
    operators = [await dial() for _ in range(100)]
    assert all("result" in answer for answer in await asyncio.gather(*(o.ask({"cmd": "status"}) for o in operators)))


# The socket.


def mode(path: Path) -> int | None:
    """The mode of the socket; None if it does not exist."""
    return stat.S_IMODE(path.lstat().st_mode) if path.exists() else None


async def test_only_owner_and_group_may_open_it(worker: Worker, path: Path) -> None:
    assert mode(path) == 0o660


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
async def test_its_mode_does_not_depend_on_the_umask(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        served = ControlSocket(path, Worker())
        await served.start()
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert mode(path) == 0o660
    await served.stop()


def leave_dead(path: Path) -> None:
    """A socket whose process was killed."""
    program = (
        "import socket, sys, signal; s = socket.socket(1, 1); s.bind(sys.argv[1]); s.listen(); print(); signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-uc", program, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    assert path.is_socket()


async def test_the_socket_of_a_dead_worker_is_replaced(path: Path, dial: Dial) -> None:
    leave_dead(path)
    served = ControlSocket(path, Worker())
    await served.start()
    assert "result" in await (await dial()).ask({"cmd": "status"})
    await served.stop()
    assert mode(path) is None


async def test_the_socket_of_a_live_worker_is_not(worker: Worker, path: Path, dial: Dial) -> None:
    with pytest.raises(OSError, match=r"cannot listen: another process serves it: '.*/80/control.sock'"):
        await ControlSocket(path, Worker()).start()
    assert "result" in await (await dial()).ask({"cmd": "status"})


async def test_a_worker_that_accepts_no_connection_is_alive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hung, contextlib.ExitStack() as stack:
        hung.bind(str(path))
        hung.listen(1)
        for _ in range(20):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            if waiting.connect_ex(str(path)):
                break
        with pytest.raises(OSError, match="another process serves it"):
            await ControlSocket(path, Worker()).start()
        assert mode(path) is not None


def test_a_file_that_is_no_socket_is_kept(path: Path, run_directory: Path) -> None:
    path.write_text("precious")
    with pytest.raises(OSError, match="no socket"):
        control._listen(path)
    assert path.read_text() == "precious"
    for wrong in (run_directory / "nowhere" / "control.sock", run_directory / ("x" * 120)):
        with pytest.raises(OSError, match=rf"cannot listen: .*{wrong.name}"):
            control._listen(wrong)


def test_of_many_workers_that_start_at_once_one_gets_the_socket(path: Path) -> None:
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        winners: list[socket.socket] = []
        barrier = threading.Barrier(6)

        def start(barrier: threading.Barrier = barrier, winners: list[socket.socket] = winners) -> None:
            barrier.wait(20)
            with contextlib.suppress(OSError):
                winners.append(control._listen(path))

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(winners) == 1
        winners[0].close()
        path.unlink()


async def test_a_stop_answers_running_commands_and_cuts_idle_callers(
    path: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_FINISH_S", 20)
    worker = Worker()
    served = ControlSocket(path, worker)
    await served.start()
    idle, waiting = await dial(), await dial()
    assert "result" in await idle.ask({"cmd": "status"})
    waiting.send({"cmd": "drain", "by": "ops"})
    await waiting.line()
    worker.leave.set()
    await asyncio.wait_for(served.stop(), 20)
    answer = await waiting.line()
    while "progress" in answer:
        answer = await waiting.line()
    assert answer["result"]["state"] == "drained"
    assert await idle.closed()
    assert await waiting.closed()
    assert mode(path) is None


async def test_a_stop_does_not_wait_for_a_running_drain(
    path: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_FINISH_S", 0.2)
    served = ControlSocket(path, Worker())
    await served.start()
    waiting = await dial()
    waiting.send({"cmd": "drain", "by": "ops"})
    await waiting.line()
    await asyncio.wait_for(served.stop(), 20)
    assert b"result" not in await asyncio.wait_for(waiting.reader.read(), 20)


async def test_a_stop_leaves_a_successors_socket(path: Path, dial: Dial) -> None:
    served, successor = ControlSocket(path, Worker()), ControlSocket(path, Worker())
    await served.start()
    os.rename(path, f"{path}.old")
    await successor.start()
    await served.stop()
    assert "result" in await (await dial()).ask({"cmd": "status"})
    await successor.stop()


# ws-server ctl.


@pytest.fixture
async def fleet(run_directory: Path) -> AsyncIterator[dict[str, Worker]]:
    workers = {name: Worker(name) for name in ("80", "100", "9")}
    served = [ControlSocket(socket_of(run_directory, name), worker) for name, worker in workers.items()]
    for each in served:
        await each.start()
    yield workers
    for each in served:
        await each.stop()


async def test_ctl_status_is_a_table_of_all_workers(fleet: dict[str, Worker], typed: Typed) -> None:
    fleet["80"].leave.set()
    await fleet["80"].drainage.drain("ops")
    fleet["9"].archive = None
    status, output, errors = await typed("status")
    assert (status, errors) == (0, "")
    pid = os.getpid()
    assert [[cell.strip() for cell in line.split("  ") if cell] for line in output.splitlines()] == [
        ["WORKER", "STATE", "CONNECTIONS", "ROOMS", "BROKER", "ARCHIVE", "UPTIME", "VERSION", "PID"],
        ["9", "ready", "5", "2", "available", "-", "1 d 2 h", "1.2.3", str(pid)],
        ["80", "drained by ops", "0", "2", "available", "0.2 s behind", "1 d 2 h", "1.2.3", str(pid)],
        ["100", "ready", "5", "2", "available", "0.2 s behind", "1 d 2 h", "1.2.3", str(pid)],
    ]
    columns = [line.index("available") for line in output.splitlines()[1:]]
    assert len(set(columns)) == 1


async def test_ctl_status_tells_what_is_used_up(fleet: dict[str, Worker], typed: Typed) -> None:
    fleet["9"].descriptors_scarce = True
    fleet["80"].broker = BrokerStatus(True, 0.91)
    fleet["100"].broker = BrokerStatus(False, 0.91, disk_full=True)
    _, output, _ = await typed("status")
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in output.splitlines()[1:]]
    assert [row[1] for row in rows] == ["ready, no descriptors", "ready", "ready"]
    assert [row[4] for row in rows] == ["available", "91% full", "disk full"]


async def test_ctl_without_a_verb_is_status(fleet: dict[str, Worker], typed: Typed) -> None:
    assert await typed() == await typed("status")


async def test_ctl_status_as_json(fleet: dict[str, Worker], typed: Typed) -> None:
    status, output, _ = await typed("status", "--json")
    assert status == 0
    assert [(worker["worker"], worker["connections"]) for worker in json.loads(output)] == [
        ("9", 5),
        ("80", 5),
        ("100", 5),
    ]
    status, output, _ = await typed("status", "--json", "--instance", "100")
    assert [worker["worker"] for worker in json.loads(output)] == ["100"]


async def test_ctl_names_a_worker_that_does_not_run(
    fleet: dict[str, Worker], typed: Typed, run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_dead(socket_of(run_directory, "81"))
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(socket_of(run_directory, "82")))
        hung.listen()
        status, output, errors = await typed("status")
        assert status == 1
        assert [line.split("  ")[0].strip() for line in output.splitlines()] == ["WORKER", "9", "80", "81", "82", "100"]
        assert [line.split()[1:] for line in output.splitlines()[3:5]] == [
            ["down", *"-------"],
            ["no", "answer", *"-------"],
        ]
        stuck = f"ws-server: worker 82 does not answer ({run_directory}/82/control.sock)\n"
        assert errors == f"ws-server: worker 81 is dead ({run_directory}/81/control.sock)\n{stuck}"
        monkeypatch.setattr(ctl, "_ANSWER_S", 0.2)
        status, output, _ = await typed("status", "--json", "--instance", "82")
        assert (status, [list(worker) for worker in json.loads(output)]) == (1, [["worker", "error"]])
        for verb in (["drain"], ["undrain"], ["kick", "--user", "alice"]):
            assert await typed(*verb, "--instance", "82") == (1, "", stuck)
    status, output, errors = await typed("status", "--instance", "83")
    assert (status, output.splitlines()[1].split()[:2]) == (1, ["83", "down"])
    assert errors == f"ws-server: worker 83 does not run ({run_directory}/83/control.sock)\n"


async def test_ctl_status_has_every_worker_that_should_run(
    fleet: dict[str, Worker], typed: Typed, run_directory: Path
) -> None:
    """systemd removes the directory of a worker that has ended, and the role keeps its link."""
    for name in ("80", "81"):
        (run_directory / "instances" / name).mkdir(parents=True)
    status, output, errors = await typed("status")
    assert (status, errors) == (1, f"ws-server: worker 81 does not run ({run_directory}/81/control.sock)\n")
    assert [line.split()[:2] for line in output.splitlines()[1:]] == [
        ["9", "ready"],
        ["80", "ready"],
        ["81", "down"],
        ["100", "ready"],
    ]
    _, output, _ = await typed("status", "--json")
    assert [(worker["worker"], "error" in worker) for worker in json.loads(output)] == [
        ("9", False),
        ("80", False),
        ("81", True),
        ("100", False),
    ]
    # A worker that does not run has no connections to close.
    assert (await typed("kick", "--user", "alice"))[::2] == (0, "")


async def test_ctl_on_a_host_without_workers(run_directory: Path, typed: Typed) -> None:
    for verb in (["status"], ["kick", "--user", "alice"]):
        status, output, errors = await typed(*verb)
        assert (status, output) == (1, "")
        assert errors == f"ws-server: no worker runs on this host: there is no {run_directory}/*/control.sock\n"


async def test_ctl_without_permission(worker: Worker, path: Path, run_directory: Path) -> None:
    os.chmod(run_directory, 0o755)
    os.chmod(path, 0o600 if os.getuid() == 0 else 0)
    # Root may open any socket, so the process changes to an unprivileged user after it has read the
    # program.
    program = """if True:
        import argparse, os, sys
        from wsserver.admin import ctl
        parser = argparse.ArgumentParser()
        ctl.add_arguments(parser)
        if os.getuid() == 0:
            os.setgroups([]), os.setgid(65534), os.setuid(65534)
        sys.exit(ctl.run(parser.parse_args()))
    """
    command = [sys.executable, "-c", program, "status", "--socket", str(path)]
    asking = await asyncio.create_subprocess_exec(*command, env=environment(), stderr=subprocess.PIPE)
    _, errors = await asyncio.wait_for(asking.communicate(), 30)
    assert asking.returncode == 1
    assert errors.decode() == f"ws-server: worker {path} obeys root and its own group, and you are neither ({path})\n"


async def test_ctl_drain_shows_progress(fleet: dict[str, Worker], typed: Typed) -> None:
    typing = asyncio.create_task(typed("drain", "--instance", "80", "--by", "ops", "--window", "3"))
    progress: list[str] = []
    async with asyncio.timeout(30):
        while len(progress) < 2:
            await asyncio.sleep(0.1)
            output, errors = typed.shown()
            assert errors == ""
            progress += output.splitlines()
    fleet["80"].leave.set()
    status, output, errors = await typing
    assert (status, errors) == (0, "")
    lines = progress + output.splitlines()
    shown = [re.fullmatch(r"80: 5 connections left, (\d+) s", line) for line in lines[:-1]]
    seconds = [int(match[1]) for match in shown if match]
    assert len(seconds) == len(shown) >= 2
    assert seconds == sorted(set(seconds)), "once a second"
    assert lines[-1] == "80: drained, by ops"
    assert fleet["80"].windows == [3.0]
    assert [worker.drainage.state for worker in fleet.values()] == ["drained", None, None]
    status, output, _ = await typed("drain", "--instance", "80", "--by", "ops", "--json")
    assert (status, json.loads(output)["state"]) == (0, "drained")


async def test_ctl_drain_that_takes_too_long_continues(
    fleet: dict[str, Worker], typed: Typed, run_directory: Path
) -> None:
    status, output, errors = await typed("drain", "--instance", "80", "--timeout", "2")
    assert status == 1
    assert output.startswith("80: 5 connections left")
    assert errors == f"ws-server: worker 80 is not done in time, and continues ({run_directory}/80/control.sock)\n"
    assert fleet["80"].drainage.state == "draining"


async def test_ctl_drain_of_a_worker_that_stops_meanwhile(
    path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_FINISH_S", 0.1)
    worker = Worker()
    served = ControlSocket(path, worker)
    await served.start()
    typing = asyncio.create_task(typed("drain", "--instance", "80"))
    await until(lambda: worker.windows)
    await served.stop()
    status, _, errors = await typing
    assert (status, "stopped before it was done" in errors) == (1, True)


async def test_ctl_undrain(fleet: dict[str, Worker], typed: Typed) -> None:
    worker = fleet["80"]
    worker.leave.set()
    for by in ("ops", "update"):
        await worker.drainage.drain(by)
    status, _, errors = await typed("undrain", "--instance", "80", "--by", "someone")
    assert (status, "drained by ops, update: undrain in that name, or by force" in errors) == (1, True)
    assert (await typed("undrain", "--instance", "80", "--by", "update"))[:2] == (1, "80: drained, by ops\n")
    status, output, _ = await typed("undrain", "--instance", "80", "--by", "update", "--force", "--json")
    assert (status, json.loads(output)["state"]) == (0, "ready")
    await worker.drainage.drain("ops")
    assert (await typed("undrain", "--instance", "80", "--by", "ops"))[:2] == (0, "80: ready\n")


async def test_ctl_acts_in_the_name_of_the_operator(
    fleet: dict[str, Worker], typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet["80"].leave.set()
    monkeypatch.setenv("SUDO_USER", "carol")
    assert (await typed("drain", "--instance", "80"))[1].splitlines()[-1] == "80: drained, by carol"


async def test_ctl_kick_reaches_all_workers(fleet: dict[str, Worker], typed: Typed) -> None:
    status, output, errors = await typed("kick", "--user", "alice", "--reason", "bye")
    assert (status, output, errors) == (0, "9: 2 closed\n80: 2 closed\n100: 2 closed\n", "")
    assert fleet["9"].kicks == [("c0", "bye"), ("c1", "bye")]
    status, output, _ = await typed("kick", "--connection", "c3", "--instance", "80", "--json")
    assert (status, json.loads(output)) == (0, [{"worker": "80", "kicked": 1}])
    assert (await typed("kick", "--connection", "c3", "--instance", "80"))[0] == 1, "closed no connection"


async def test_ctl_requires_a_worker_and_a_user_or_connection(fleet: dict[str, Worker], typed: Typed) -> None:
    for wrong in (["dance"], ["kick"], ["kick", "--user", "a", "--connection", "b"], ["drain", "--window", "x"]):
        with pytest.raises(SystemExit) as stopped:
            await typed(*wrong)
        assert stopped.value.code == 2
    for verb in ("drain", "undrain"):
        status, _, errors = await typed(verb)
        assert (status, errors) == (1, "ws-server: say which worker: --instance, for example --instance 80\n")
    status, _, errors = await typed("drain", "--instance", "80", "--window", "601")
    assert (status, "window_s" in errors) == (1, True)
