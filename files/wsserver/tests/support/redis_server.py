# SPDX-License-Identifier: MIT
"""A real Redis for one test, on a Unix socket."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis


class RedisServer:
    def __init__(self, fsync: str = "always") -> None:
        # Not pytest's directory: its name may be too long for a socket.
        self.directory = Path(tempfile.mkdtemp(prefix="ws-redis-"))
        self.socket = self.directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        self._file_bytes: int | None = None

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed, and these tests need it"
        self.socket.unlink(missing_ok=True)
        arguments = ["--port", "0", "--unixsocket", self.socket, "--dir", self.directory, "--save", ""]
        arguments += ["--appendonly", "yes", "--appendfsync", self.fsync, "--logfile", "redis.log"]
        # SIGXFSZ stays ignored: see `fill_disk`.
        command = [program, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, restore_signals=False)
        self._limit_files()
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

    def fill_disk(self) -> None:
        """Let no write to the append only file succeed. To Redis, a file that may not grow is as a
        full disk, and needs no root.
        """
        self._file_bytes = self.aof().stat().st_size
        self._limit_files()

    def free_disk(self) -> None:
        self._file_bytes = None
        self._limit_files()

    def _limit_files(self) -> None:
        assert self._process is not None
        limit = resource.RLIM_INFINITY if self._file_bytes is None else self._file_bytes
        with suppress(ProcessLookupError):  # it has ended, and the next one gets the limit
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

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
