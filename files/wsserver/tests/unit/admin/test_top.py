# SPDX-License-Identifier: MIT
"""`ws-server ctl top`: its numbers, over real control sockets, and its display, on a real terminal."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import math
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.controlled import Typed, Worker, socket_of
from support.wait import until
from support.worker import environment

from wsserver.admin.control_socket import ControlSocket
from wsserver.admin.top import watched
from wsserver.admin.top.frame import frame
from wsserver.admin.top.rates import quantile, total, worst
from wsserver.admin.top.watched import Row, Watched
from wsserver.status import ArchiveStatus, BrokerStatus, Counters, Histogram
from wsserver.telemetry import metrics
from wsserver.telemetry import snapshot as counters

BOUNDS = [0.001, 0.002, 0.004]
NONE = Histogram(BOUNDS, [0, 0, 0, 0], 0.0)
HEADS = [
    *("WORKER", "STATE", "CONNS", "ROOMS", "IN/S", "OUT/S", "P50", "P99", "LAG", "DROPS"),
    *("REDIS", "ARCHIVE", "CPU", "MEM", "UPTIME", "PID", "VERSION"),
]


def counted(at: float, messages: int = 0, drops: int = 0, **histograms: Histogram) -> Counters:
    empty = {"publish_to_deliver": NONE, "event_loop_lag": NONE, "broker_publish": NONE}
    return Counters(at, messages, messages * 10, drops, **{**empty, **histograms})


# Numbers.


def histogram(*seconds: float) -> Histogram:
    return Histogram(BOUNDS, [*(sum(s <= bound for s in seconds) for bound in BOUNDS), len(seconds)], sum(seconds))


@pytest.mark.parametrize(
    ("seconds", "q", "expected"),
    [
        ([], 0.5, None),
        ([0.0005] * 4, 0.5, 0.0005),
        ([0.0015] * 100, 0.99, 0.00199),
        ([0.0005] * 50 + [0.003] * 50, 0.5, 0.001),
        ([0.0005] * 50 + [0.003] * 50, 0.75, 0.003),
        ([0.0005] * 98 + [9.0] * 2, 0.5, 0.001 * 50 / 98),
        ([0.0005] * 98 + [9.0] * 2, 0.99, math.inf),
    ],
)
def test_a_quantile(seconds: list[float], q: float, expected: float | None) -> None:
    assert quantile(histogram(*seconds), q) == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([], None), ([0.0003], 0.0003), ([0.0003] * 60, 0.001), ([0.0003, 0.003], 0.0033), ([7.0, 0.001], 7.001)],
)
def test_the_worst(seconds: list[float], expected: float | None) -> None:
    assert worst(histogram(*seconds)) == (expected if expected is None else pytest.approx(expected))


def test_histograms_of_two_releases_are_not_added() -> None:
    one = histogram(0.003, 0.0005)
    assert total([one, one]) == Histogram(BOUNDS, [2, 2, 4, 4], pytest.approx(0.007))
    assert total([one, Histogram([1.0], [1, 1], 0.5)]) is None
    assert total([]) is None


def test_the_counters_are_those_of_the_metrics() -> None:
    before = counters.read()
    metrics.MESSAGES_IN.inc(3)
    metrics.MESSAGES_OUT.inc(30)
    metrics.DROPS.inc(2)
    for seconds in (0.0005, 0.003, 99):
        metrics.PUBLISH_TO_DELIVER.observe(seconds)
    metrics.EVENT_LOOP_LAG.observe(0.1)
    metrics.BROKER_PUBLISH.observe(0.1)
    after = counters.read()
    gained = [getattr(after, name) - getattr(before, name) for name in ("messages_in", "messages_out", "drops")]
    assert gained == [3, 30, 2]
    assert after.clock_s > before.clock_s
    then, now = before.publish_to_deliver, after.publish_to_deliver
    assert (now.bounds[0], now.bounds[-1], len(now.counts)) == (0.001, 2.048, len(now.bounds) + 1)
    assert [b - a for a, b in zip(then.counts, now.counts, strict=True)] == [1, 1, *[2] * 10, 3]
    # Other tests may have observed so much that the sum is coarse.
    assert now.sum - then.sum == pytest.approx(99.0035, abs=4 * math.ulp(now.sum))
    assert after.event_loop_lag.counts[-1] - before.event_loop_lag.counts[-1] == 1
    assert after.broker_publish.counts[-1] - before.broker_publish.counts[-1] == 1


# One frame.


@pytest.fixture
async def serve(run_directory: Path) -> AsyncIterator[Callable[..., Awaitable[ControlSocket]]]:
    opened: list[ControlSocket] = []

    async def serve_now(worker: Worker) -> ControlSocket:
        opened.append(ControlSocket(socket_of(run_directory, worker.instance), worker))
        await opened[-1].start()
        return opened[-1]

    yield serve_now
    for each in opened:
        await each.stop()


@pytest.fixture
async def fleet(serve: Serve) -> dict[str, Worker]:
    workers = {name: Worker(name) for name in ("80", "100", "9")}
    for worker in workers.values():
        await serve(worker)
    return workers


@pytest.fixture
def once(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[tuple[int, Shown]]]:
    monkeypatch.setenv("COLUMNS", "200")

    async def once_now(*arguments: str) -> tuple[int, Shown]:
        status, output, errors = await typed("top", "--once", "--interval", "0.5", *arguments)
        assert errors == ""
        return status, Shown(output)

    return once_now


class Shown:
    """A frame in one table: its cells, by worker and head."""

    def __init__(self, text: str) -> None:
        self.head, self.text = text.splitlines()[0], text
        table, _, notes = text.partition("\n\n")[2].partition("\n\n")
        heads, *rows = table.splitlines()
        self.notes = notes.splitlines()
        # Numbers are right-aligned to their head; other cells are left-aligned.
        places = {match[0]: match.span() for match in re.finditer(r"\S+", heads)}
        assert list(places) == HEADS
        self.rows: dict[str, dict[str, str]] = {}
        for row in rows:
            cells = [cell.strip() for cell in re.split(r"\s{2,}(?=\S)", row)]
            self.rows[cells[0]] = {
                head: next((m[0] for m in re.finditer(r"\S+( \S+)*", row) if _overlaps(m.span(), span)), "")
                for head, span in places.items()
            }

    def column(self, head: str) -> list[str]:
        return [row[head] for row in self.rows.values()]


def _overlaps(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


Serve = Callable[[Worker], Awaitable[ControlSocket]]
Once = Callable[..., Awaitable[tuple[int, Shown]]]


async def test_rates_are_the_changes_between_two_readings(fleet: dict[str, Worker], once: Once) -> None:
    fleet["9"].counted = [
        counted(1000, messages=500, publish_to_deliver=histogram(*[9.0] * 50), event_loop_lag=histogram(5.0)),
        counted(
            1004,
            messages=700,
            publish_to_deliver=histogram(*[9.0] * 50, *[0.0015] * 100),
            event_loop_lag=histogram(5.0, 0.0002),
            broker_publish=histogram(0.0005),
        ),
    ]
    fleet["80"].counted = [
        counted(2, messages=0, drops=7),
        counted(4, messages=10, drops=10, publish_to_deliver=histogram(*[0.003] * 300), event_loop_lag=histogram(0.9)),
    ]
    fleet["80"].archive = ArchiveStatus(False, 12, 61)
    fleet["100"].counted = [counted(7), counted(8)]
    fleet["100"].archive = None
    status, shown = await once()
    assert status == 0
    assert list(shown.rows) == ["9", "80", "100", "all"]
    assert shown.column("STATE") == ["ready"] * 3 + ["3/3 ready"]
    assert shown.column("CONNS") == ["5", "5", "5", "15"]
    assert shown.column("ROOMS") == ["2", "2", "2", ""]
    assert shown.column("IN/S") == ["50", "5", "0", "55"]
    assert shown.column("OUT/S") == ["500", "50", "0", "550"]
    assert shown.column("P50") == ["1.5ms", "3.0ms", "-", "2.7ms"]
    assert shown.column("P99") == ["2.0ms", "4.0ms", "-", "4.0ms"]
    assert shown.column("LAG") == ["0.2ms", "900ms", "-", "900ms"]
    assert shown.column("DROPS") == ["0", "10 +3", "0", "10 +3"]
    assert shown.column("REDIS") == ["1.0ms", "ok", "ok", "1.0ms"]
    assert shown.column("ARCHIVE") == ["250ms", "down 1m 1s", "-", "down 1m 1s"]
    assert shown.column("UPTIME") == ["1d 2h"] * 3 + [""]
    assert shown.column("PID") == [str(os.getpid())] * 3 + [""]
    assert shown.column("VERSION") == ["1.2.3"] * 3 + [""]
    memory = [int(cell.removesuffix("M")) for cell in shown.column("MEM")]
    assert 20 < memory[0] < 2000
    assert memory[3] == pytest.approx(3 * memory[0], abs=6)
    assert all(re.fullmatch(r"\d+%", cell) for cell in shown.column("CPU"))


async def test_a_restarted_worker_has_no_rates_yet(serve: Serve, once: Once) -> None:
    class Restarted(Worker):
        def counters(self) -> Counters:
            self.started_at += 60
            return super().counters()

    worker = Restarted("80")
    worker.counted = [counted(1000, 500, drops=9), counted(1002, 100, drops=1)]
    await serve(worker)
    _, shown = await once()
    row = shown.rows["80"]
    assert (row["CONNS"], row["IN/S"], row["OUT/S"], row["P99"], row["LAG"], row["DROPS"]) == (
        *("5", "-", "-", "-", "-", "1"),
    )


async def test_states_and_holders_of_drains(fleet: dict[str, Worker], once: Once) -> None:
    fleet["9"].state, fleet["9"].archive = "starting", ArchiveStatus(True, 0, 0)
    fleet["80"].archive = ArchiveStatus(False, 0, 0)
    fleet["80"].state, fleet["80"].broker = "broker_unavailable", BrokerStatus(False)
    fleet["100"].leave.set()
    await fleet["100"].drainage.drain("olga\x1b[2J")
    status, shown = await once()
    assert status == 0
    assert shown.column("STATE") == ["starting", "no broker", "drained", "0/3 ready"]
    assert shown.column("REDIS")[1::2] == ["down", "down"]
    assert shown.column("ARCHIVE") == ["ok", "down", "250ms", "down 250ms"]
    assert shown.notes == ["100 is drained by olga?[2J"]
    assert "\x1b" not in shown.text


async def test_workers_that_do_not_answer_are_shown_beside_the_others(
    fleet: dict[str, Worker], once: Once, run_directory: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_of(run_directory, "81")))
    (run_directory / "instances" / "83").mkdir(parents=True)
    with hung(socket_of(run_directory, "82")):
        began = time.monotonic()
        status, shown = await once()
        assert time.monotonic() - began < 10
    assert status == 1
    assert shown.column("STATE") == ["ready", "ready", "down", "no answer", "down", "ready", "3/6 ready"]
    assert shown.column("CONNS") == ["5", "5", "-", "-", "-", "5", "15"]
    assert shown.column("PID")[2:5] == ["-", str(os.getpid()), "-"], "the kernel knows who has a socket"
    assert shown.column("MEM")[3] == shown.column("MEM")[0] != "-"
    assert [re.sub(r"\d+ s", "N s", note) for note in shown.notes] == [
        *("81 is dead", "82 has not answered for N s", "83 does not run"),
    ]
    status, shown = await once("--instance", "83")
    assert (status, list(shown.rows), shown.column("STATE")) == (1, ["83"], ["down"])


@contextlib.contextmanager
def hung(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(3)
        yield listener


async def test_a_hung_worker_is_not_flooded_and_comes_back(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "ANSWER_S", 0.1)
    path = socket_of(run_directory, "80")
    one = Watched("80", path)
    await one.look(10)
    assert one.row.state == "down"
    with hung(path) as listener:
        for _ in range(50):
            await one.look(0.02)
        assert one.row.state == "no answer"
        await asyncio.wait_for(one.look(60), 20)  # this does not wait for the worker any longer
        listener.setblocking(False)
        connection, _ = listener.accept()
        with pytest.raises(BlockingIOError):
            listener.accept()
        with connection:
            assert connection.recv(1000).count(b"\n") == 1, "one question"
            connection.sendall(json.dumps({"result": msgspec.to_builtins(Worker().status())}).encode() + b"\n")
            await until(lambda: one._silent_since is None)
            await one.look(0)
            assert (one.row.state, one.row.note) == ("ready", "")
    await one.close()


async def test_a_worker_whose_backlog_is_full(run_directory: Path, once: Once) -> None:
    path = socket_of(run_directory, "80")
    with hung(path), contextlib.ExitStack() as others:
        with contextlib.suppress(BlockingIOError):
            while True:
                other = others.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(str(path))
        status, shown = await once("--interval", "2")
        assert (status, shown.column("STATE")) == (1, ["no answer"])


async def test_a_worker_that_restarted_is_asked_again(serve: Serve, run_directory: Path) -> None:
    first = await serve(Worker("80"))
    one = Watched("80", socket_of(run_directory, "80"))
    await one.look(10)
    assert one.row.state == "ready"
    await first.stop()
    await one.look(10)
    assert (one.row.state, one.row.note, one.row.process) == ("down", "does not run", None)
    second = Worker("80")
    second.started_at += 60
    await serve(second)
    await one.look(10)
    assert (one.row.state, one.row.rates) == ("ready", None)
    await one.look(10)
    assert one.row.rates is not None
    await one.close()


async def answering(path: Path, answer: bytes) -> asyncio.Server:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(answer)
            if not answer.endswith(b"\n"):
                break
        writer.close()

    return await asyncio.start_unix_server(converse, path)


def old_status(**fields: Any) -> dict[str, Any]:
    status = msgspec.to_builtins(Worker().status())
    assert "counters" not in status
    return {**status, **fields}


@pytest.mark.parametrize("state", ["ready", "handing_over"])
async def test_a_worker_of_another_release(serve: Serve, once: Once, run_directory: Path, state: str) -> None:
    new = Worker("80")
    new.counted = [counted(1), counted(2, messages=10)]
    await serve(new)
    old = json.dumps({"result": old_status(state=state, more={"of": "it"})}).encode() + b"\n"
    async with await answering(socket_of(run_directory, "81"), old):
        status, shown = await once()
    assert status == 0
    row = shown.rows["81"]
    assert (row["STATE"], row["CONNS"], row["ROOMS"], row["ARCHIVE"], row["REDIS"]) == (
        *(state, "5", "2", "250ms", "ok"),
    )
    assert [row[head] for head in ("IN/S", "OUT/S", "P50", "P99", "LAG", "DROPS")] == ["-"] * 6
    assert shown.column("IN/S") == ["10", "-", "10"]
    assert shown.column("CONNS") == ["5", "5", "10"]


@pytest.mark.parametrize(
    ("answer", "state", "note"),
    [
        (b"", "down", "is dead"),
        (b'{"result"', "down", "is dead"),
        (b"\n", "fault", "answers what this release does not understand"),
        (b"[" * 60000 + b"\n", "fault", "answers what this release does not understand"),
        (b'{"result":{"version":"\xff"}}\n', "fault", "answers what this release does not understand"),
        (b"{}\n", "fault", "refuses: it does not say why"),
        (
            b'{"error":{"code":"internal","message":"a fault of the worker"}}\n',
            "fault",
            "refuses: a fault of the worker",
        ),
        (b"x" * 100_000 + b"\n", "fault", "answers with a line that has no end"),
    ],
)
async def test_no_answer_ends_top(
    serve: Serve, once: Once, run_directory: Path, answer: bytes, state: str, note: str
) -> None:
    await serve(Worker("80"))
    async with await answering(socket_of(run_directory, "81"), answer):
        status, shown = await once()
    assert (status, shown.column("STATE"), shown.notes) == (1, ["ready", state, "1/2 ready"], [f"81 {note}"])


async def test_without_a_terminal_it_is_one_frame(serve: Serve, typed: Typed) -> None:
    await serve(Worker("80"))
    status, output, errors = await typed("top", "--interval", "0.5")
    assert (status, errors, output.count("WORKER"), "\x1b" in output) == (0, "", 2, False)


async def test_without_a_worker(run_directory: Path, typed: Typed) -> None:
    assert await typed("top", "--once") == (
        *(1, "", f"ws-server: no worker runs on this host: there is no {run_directory}/*/control.sock\n"),
    )


@pytest.mark.parametrize("interval", ["0", "0.4", "60.1", "-1", "nan", "inf", "2s", ""])
async def test_the_interval_is_checked(typed: Typed, capsys: pytest.CaptureFixture[str], interval: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        await typed("top", f"--interval={interval}")
    assert stopped.value.code == 2
    assert f"argument --interval: {interval!r} is no number of seconds from 0.5 to 60" in capsys.readouterr().err


def test_a_worker_does_not_import_top() -> None:
    program = "import sys, wsserver.cli; sys.exit(any(name.startswith('wsserver.admin.top') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True, timeout=30)


# Layout.


def rows(count: int) -> list[Row]:
    status = msgspec.to_builtins(Worker().status()) | {"version": "0.1.0+d40301df1064", "uptime_s": 1e6}
    answer = msgspec.convert(status, watched.Answer)
    one = Row("80", "broker_unavailable", "", answer, None, 0.25, None, 0.5)
    return [dataclasses.replace(one, name=str(80 + n), note="x" * 300 if n == 1 else "") for n in range(count)]


def test_it_fits_the_width() -> None:
    for width in (*range(1, 100), 147, 148, 200):
        lines = frame("head", rows(4), width, None, colours=False)
        assert max(map(len, lines)) <= width
        heads = [head for line in lines if line.startswith("WORKER") for head in line.split()[1:]]
        assert heads == HEADS[1:] or width < 28, "all of them, once"
        tables = sum(line.startswith("WORKER") for line in lines)
        assert tables == {80: 2, 147: 2, 148: 1, 200: 1}.get(width, tables)


@pytest.mark.parametrize("height", [1, 2, 10, 16, 17])
def test_it_fits_the_height(height: int) -> None:
    lines = frame("head", rows(4), 80, height, colours=False)
    assert len(lines) == min(height, 17)
    assert ("more lines: make the window larger" in lines[-1]) == (height < 17)


def test_colours_change_nothing_else() -> None:
    for width in (10, 80, 200):
        plain, painted = (frame("head", rows(4), width, None, colours) for colours in (False, True))
        assert plain != painted
        assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in painted] == plain


# On a terminal.

SWITCHED = "\x1b[?1049h"
BACK = "\x1b[?7h\x1b[?25h\x1b[?1049l"
PROGRAM = """if True:
    import argparse, pathlib, sys
    from wsserver.admin import ctl
    ctl.RUN, ctl.INSTANCES = pathlib.Path(sys.argv.pop(1)), pathlib.Path("/nowhere")
    if sys.argv[1] == "--break":
        from wsserver.admin.top import command
        del sys.argv[1]
        frame, frames = command.frame, []
        def breaks(*arguments):
            frames.append(arguments)
            return frame(*arguments) if len(frames) < 3 else 1 / 0
        command.frame = breaks
    parser = argparse.ArgumentParser()
    ctl.add_arguments(parser)
    sys.exit(ctl.run(parser.parse_args()))
"""


class Terminal:
    """A terminal, and the program in it."""

    def __init__(self, run_directory: Path, *arguments: str, **variables: str) -> None:
        self._outer, self.inner = pty.openpty()
        self.resize(80, 24)
        self.modes = termios.tcgetattr(self.inner)
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(run_directory), *arguments],
            env={**environment(), "TERM": "xterm", "NO_COLOR": "", **variables},
            stdin=self.inner,
            stdout=self.inner,
            stderr=self.inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        asyncio.get_running_loop().add_reader(self._outer, self._read)

    def _read(self) -> None:
        self.shown += os.read(self._outer, 65536).decode()

    def type(self, keys: bytes) -> None:
        os.write(self._outer, keys)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._outer, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    @property
    def frames(self) -> list[str]:
        return self.shown.split("\x1b[H")[1:]

    async def until_shown(self, text: str) -> None:
        """Wait for a text in a frame that begins after the call."""
        seen = len(self.shown)
        await until(lambda: text in self.shown[seen:].partition("\x1b[H")[2] or self.process.poll() is not None)
        assert self.process.poll() is None, self.shown

    async def ended(self) -> int:
        await until(lambda: self.process.poll() is not None)
        # On a busy machine the terminal delivers the last output after the end of the process.
        seen = -1
        while seen != len(self.shown):
            seen = len(self.shown)
            await asyncio.sleep(0.5)
        assert self.process.returncode is not None
        return self.process.returncode

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._outer)
        self.process.kill()
        self.process.wait()
        os.close(self._outer)
        os.close(self.inner)


@pytest.fixture
async def terminal(run_directory: Path) -> AsyncIterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_now(*arguments: str, **variables: str) -> Terminal:
        opened.append(Terminal(run_directory, *arguments, **variables))
        return opened[-1]

    yield open_now
    for each in opened:
        each.close()


Open = Callable[..., Terminal]
LIVE = ("top", "--interval", "0.5")


async def test_it_is_live(serve: Serve, terminal: Open) -> None:
    worker = Worker("80")
    await serve(worker)
    one = terminal(*LIVE)
    await one.until_shown("80      \x1b[32mready")
    assert one.shown.startswith(SWITCHED)
    assert termios.tcgetattr(one.inner)[3] & (termios.ECHO | termios.ICANON) == 0
    worker.state = "starting"
    await one.until_shown("80      \x1b[33mstarting")
    one.type(b"xq")
    assert await one.ended() == 0
    assert one.shown.endswith(BACK)
    assert termios.tcgetattr(one.inner) == one.modes


async def test_it_follows_the_size_of_the_terminal_at_once(serve: Serve, terminal: Open) -> None:
    await serve(Worker("80"))
    one = terminal("top", "--interval", "60")
    await one.until_shown("ready")
    assert not re.search("WORKER.*STATE.*VERSION", one.shown)
    one.resize(160, 24)
    await until(lambda: re.search("WORKER.*STATE.*VERSION", one.frames[-1]))
    one.resize(20, 3)
    await until(lambda: len(one.frames[-1].splitlines()) == 3)
    assert max(len(re.sub(r"\x1b\[\w+", "", line)) for line in one.frames[-1].splitlines()) <= 20
    one.type(b"q")
    assert await one.ended() == 0


@pytest.mark.parametrize("how", [b"Q", b"\x03", signal.SIGTERM, signal.SIGHUP])
async def test_it_leaves_the_terminal_as_it_was(serve: Serve, terminal: Open, how: bytes | signal.Signals) -> None:
    await serve(Worker("80"))
    one = terminal(*LIVE)
    await one.until_shown("ready")
    if isinstance(how, bytes):
        one.type(how)
    else:
        one.process.send_signal(how)
    assert await one.ended() == 0
    assert one.shown.endswith(BACK)
    assert termios.tcgetattr(one.inner) == one.modes


async def test_it_leaves_the_terminal_as_it_was_when_it_fails(serve: Serve, terminal: Open) -> None:
    await serve(Worker("80"))
    one = terminal("--break", *LIVE)
    assert await one.ended() == 1
    assert len(one.frames) == 2
    before, back, after = one.shown.partition(BACK)
    assert (before != "", back, "ZeroDivisionError" in after) == (True, BACK, True)
    assert "Traceback" not in before
    assert termios.tcgetattr(one.inner) == one.modes


async def test_it_leaves_the_terminal_as_it_was_when_no_worker_is_left(serve: Serve, terminal: Open) -> None:
    only = await serve(Worker("80"))
    one = terminal(*LIVE)
    await one.until_shown("ready")
    await only.stop()
    assert await one.ended() == 1
    assert "ws-server: no worker runs on this host" in one.shown.partition(BACK)[2]
    assert termios.tcgetattr(one.inner) == one.modes


async def test_it_can_be_suspended_and_resumed(serve: Serve, terminal: Open) -> None:
    await serve(Worker("80"))
    one = terminal(*LIVE)
    await one.until_shown("ready")
    one.type(b"\x1a")
    await until(lambda: Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    await until(lambda: one.shown.endswith(BACK))
    assert termios.tcgetattr(one.inner) == one.modes
    one.process.send_signal(signal.SIGCONT)
    await one.until_shown("ready")
    assert one.shown.count(SWITCHED) == 2
    one.type(b"q")
    assert await one.ended() == 0
    assert termios.tcgetattr(one.inner) == one.modes


async def test_a_hung_worker_delays_neither_the_others_nor_the_keys(
    serve: Serve, terminal: Open, run_directory: Path
) -> None:
    worker = Worker("80")
    await serve(worker)
    with hung(socket_of(run_directory, "81")):
        one = terminal(*LIVE)
        await one.until_shown("no answer")
        begun, seen = time.monotonic(), len(one.frames)
        worker.state = "starting"
        await one.until_shown("starting")
        await until(lambda: len(one.frames) >= seen + 6)
        assert time.monotonic() - begun < 15
        one.type(b"q")
        assert await one.ended() == 0


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_without_colours(serve: Serve, terminal: Open, variables: dict[str, str]) -> None:
    await serve(Worker("80"))
    one = terminal(*LIVE, **variables)
    await one.until_shown("80      ready")
    assert not re.search(r"\x1b\[\d+m", one.shown)


async def test_once_on_a_terminal_leaves_it_alone(serve: Serve, terminal: Open) -> None:
    await serve(Worker("80"))
    one = terminal("top", "--once", "--interval", "0.5")
    assert await one.ended() == 0
    assert "80      \x1b[32mready" in one.shown
    assert set(re.findall(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", one.shown)) <= {"\x1b[1m", "\x1b[32m", "\x1b[0m"}
