# SPDX-License-Identifier: MIT
"""A real Redis for one test, on a Unix socket."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis


class RedisServer:
    def __init__(self, fsync: str = "always", directory: Path | None = None) -> None:
        # Not pytest's directory: its name may be too long for a socket.
        self.directory = directory or Path(tempfile.mkdtemp(prefix="ws-redis-"))
        self.socket = self.directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed, and these tests need it"
        self.socket.unlink(missing_ok=True)
        arguments = ["--port", "0", "--unixsocket", self.socket, "--dir", self.directory, "--save", ""]
        arguments += ["--appendonly", "yes", "--appendfsync", self.fsync, "--logfile", "redis.log"]
        self._process = subprocess.Popen([program, *map(str, arguments)], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while True:
            try:
                self.client().ping()
                return
            except redis.RedisError:
                assert time.monotonic() < deadline, "redis-server does not answer"
                assert self._process.poll() is None, "redis-server stopped"
                time.sleep(0.02)

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), **options)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """As systemd does: nothing is lost."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def backup(self) -> Path:
        """A copy of the data as it is now."""
        copy = Path(tempfile.mkdtemp(dir=self.directory)) / "copy"
        shutil.copytree(self.directory / "appendonlydir", copy)
        return copy

    def restore(self, copy: Path) -> None:
        """Start with the data of a backup."""
        self.kill()
        shutil.rmtree(self.directory / "appendonlydir")
        shutil.copytree(copy, self.directory / "appendonlydir")
        self.start()

    def cut(self, size: int) -> None:
        """Start without the end of the append only file."""
        self.kill()
        with self.aof().open("r+b") as aof:
            aof.truncate(size)
        self.start()

    def aof(self) -> Path:
        """The file that the next write is appended to."""
        return max((self.directory / "appendonlydir").glob("*.incr.aof"))
