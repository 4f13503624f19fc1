# SPDX-License-Identifier: MIT
"""Workers behind real control sockets, and an operator who types."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

import pytest

from wsserver.admin import ctl
from wsserver.status import ArchiveStatus, BrokerStatus, Counters, State, Status
from wsserver.telemetry import snapshot as counters
from wsserver.transport.drain import WorkerDrain


class Worker:
    """A worker whose clients leave when the test lets them."""

    def __init__(self, instance: str = "80") -> None:
        self.instance = instance
        self.users = {f"c{n}": "alice" if n < 2 else "bob" for n in range(5)}
        self.windows: list[float | None] = []
        self.kicks: list[tuple[str, str]] = []
        self.broken = False
        self.state: State = "ready"
        self.started_at = 1.7e9
        self.broker = BrokerStatus(True)
        self.descriptors_scarce = False
        # The counters at each poll; the real counters by default.
        self.counted: list[Counters] = []
        self.archive: ArchiveStatus | None = ArchiveStatus(True, 12, 0.25)
        self.leave = asyncio.Event()
        self.drainage = WorkerDrain(self._send_away)

    async def _send_away(self, window_s: float | None) -> None:
        self.windows.append(window_s)
        await self.leave.wait()
        self.users.clear()

    def status(self) -> Status:
        if self.broken:
            raise ZeroDivisionError
        return Status(
            version="1.2.3",
            pid=os.getpid(),
            instance=self.instance,
            started_at=self.started_at,
            uptime_s=93784.5,
            state=self.drainage.state or self.state,
            drained_by=self.drainage.by,
            connections=len(self.users),
            handshaking=1,
            closing=0,
            rooms=2,
            broker=self.broker,
            archive=self.archive,
            descriptors_scarce=self.descriptors_scarce,
        )

    def counters(self) -> Counters:
        return self.counted.pop(0) if self.counted else counters.read()

    def drain(self, by: str, window_s: float | None) -> asyncio.Task[None]:
        return self.drainage.drain(by, window_s)

    def undrain(self, by: str, force: bool) -> None:
        self.drainage.undrain(by, force)

    def kick(self, user: str | None, connection: str | None, reason: str) -> int:
        closed = [id for id, name in self.users.items() if name == user or id == connection]
        for id in closed:
            del self.users[id]
            self.kicks.append((id, reason))
        return len(closed)


def socket_of(run_directory: Path, instance: str) -> Path:
    (run_directory / instance).mkdir(exist_ok=True)
    return run_directory / instance / "control.sock"


class Typed:
    """A command that an operator typed, and its output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser(prog="ws-server ctl")
        ctl.add_arguments(parser)
        self._capsys.readouterr()
        status = await asyncio.to_thread(lambda: ctl.run(parser.parse_args(arguments)))
        return status, *self.shown()

    def shown(self) -> tuple[str, str]:
        """Output and errors since the last call."""
        said = self._capsys.readouterr()
        return "".join(line for line in said.out.splitlines(True) if "[info" not in line), said.err
