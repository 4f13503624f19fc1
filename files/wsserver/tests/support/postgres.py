# SPDX-License-Identifier: MIT
"""A Postgres cluster of a test's own, from Debian's programs, run by a user who is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import asyncpg


class Cluster:
    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        assert found, "Postgres is not installed, and these tests need it"
        self._bin = found[-1]
        self.directory = Path(tempfile.mkdtemp(prefix="ws-postgres-"))
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        # A DSN has a socket's directory in its query. The owner of the cluster is `app`.
        self.dsn = f"postgresql://app@/postgres?host={self.directory}"
        self._data = self.directory / "data"
        self._run("initdb", "--pgdata", self._data, "--username", "app", "--auth", "trust", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses= -c fsync=off -c unix_socket_directories={self.directory}"
        log = self.directory / "log"
        self._run("pg_ctl", "start", "--wait", "--pgdata", self._data, "--options", options, "--log", log)

    def stop(self) -> None:
        """Stop the server, as a crash would."""
        self._run("pg_ctl", "stop", "--pgdata", self._data, "--mode", "immediate")

    async def fresh_database(self) -> str:
        """The DSN of an empty database."""
        connection = await asyncpg.connect(self.dsn)
        await connection.execute("DROP DATABASE IF EXISTS ws WITH (FORCE)")
        await connection.execute("CREATE DATABASE ws")
        await connection.close()
        return self.dsn.replace("/postgres?", "/ws?")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its processes."""
        server = (self._data / "postmaster.pid").read_text().split()[0]
        for process in (server, *Path(f"/proc/{server}/task/{server}/children").read_text().split()):
            os.kill(int(process), number)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._bin / program), *map(str, arguments)]
        subprocess.run(command, cwd=self.directory, check=True, stdout=subprocess.DEVNULL, timeout=60, **self._user)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)
