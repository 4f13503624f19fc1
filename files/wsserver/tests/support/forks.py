# SPDX-License-Identifier: MIT
"""Processes that are forks of a process that has imported the service: an import takes a CPU
second.

A process has its own arguments, environment and output, as if `python -m MODULE ARGUMENTS` had
started it. No process outlives the tests that started it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_TESTS = Path(__file__).parents[1]
_REQUEST_BYTES = 1 << 18


class Process:
    """As subprocess.Popen, as far as tests use it."""

    def __init__(self, reports: socket.socket) -> None:
        self.returncode: int | None = None
        self._reports = reports
        self._received = b""
        self.pid = self._next_report(60)

    def poll(self) -> int | None:
        if self.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._next_report(timeout)
            self._reports.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _next_report(self, timeout: float | None) -> int:
        """A line of the server: first the process's id, and once it has ended its status."""
        self._reports.settimeout(timeout)
        while b"\n" not in self._received:
            try:
                part = self._reports.recv(100)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("a forked process", timeout or 0) from None
            assert part, "the fork server has ended"
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return int(line)


class ForkServer:
    """A process that imports `modules`, and forks once per request."""

    def __init__(self, *modules: str, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join([str(_TESTS), environment.get("PYTHONPATH", "")])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.forks", str(theirs.fileno()), *modules],
                env={**environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, *command: str, environment: Mapping[str, str], output: IO[Any], errors: IO[Any]) -> Process:
        """`command`: a module, and its arguments."""
        ours, theirs = socket.socketpair()
        with theirs:
            request = json.dumps([command, dict(environment), str(Path.cwd())]).encode()
            socket.send_fds(self._control, [request], [output.fileno(), errors.fileno(), theirs.fileno()])
        return Process(ours)


def _serve(control: socket.socket) -> list[str]:
    """Fork until the tests have ended, and then end all children.

    In a child: return its command.
    """
    ended, written = socket.socketpair()
    ended.setblocking(False)
    written.setblocking(False)
    signal.set_wakeup_fd(written.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pytest handles Ctrl-C
    children: dict[int, socket.socket] = {}
    # select() fails on file descriptors above 1023.
    selector = selectors.PollSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(ended, selectors.EVENT_READ)
    while True:
        ready = [key.fileobj for key, _ in selector.select()]
        if ended in ready:
            ended.recv(4096)
            _report_ends(children)
        if control not in ready:
            continue
        request, files, _, _ = socket.recv_fds(control, _REQUEST_BYTES, 3)
        if not request:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            sys.exit()
        output, errors, reports = files
        if pid := os.fork():
            os.close(output)
            os.close(errors)
            children[pid] = socket.socket(fileno=reports)
            children[pid].sendall(b"%d\n" % pid)
        else:
            os.close(reports)
            return _become(request, output, errors)


def _report_ends(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as reports, contextlib.suppress(OSError):  # the test may not wait for the end
            reports.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request: bytes, output: int, errors: int) -> list[str]:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    command, environment, directory = json.loads(request)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    return list(command)


def _main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as control:
        for module in sys.argv[2:]:
            importlib.import_module(module)
        gc.freeze()
        sys.argv = _serve(control)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
