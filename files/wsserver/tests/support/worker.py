# SPDX-License-Identifier: MIT
"""A whole worker as systemd would run it, and clients for it."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Self

from websockets.asyncio.client import ClientConnection, connect

from support.forks import ForkServer, Process
from support.ports import free_port
from wsserver.auth import mint

SECRET = "a secret of at least 32 characters"
ORIGIN = "https://chat.example.org"
SRC = Path(__file__).parents[2] / "src"


def environment(**settings: str) -> dict[str, str]:
    """The environment of this process, with `settings` in place of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WS_") and name != "NOTIFY_SOCKET"}
    return {**kept, "PYTHONPATH": str(SRC), "PYTHONUNBUFFERED": "1", **settings}


@functools.cache
def fork_server() -> ForkServer:
    return ForkServer("support.preloaded", environment=environment())


def ws_server(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        command = ("wsserver", *arguments)
        process = fork_server().start(*command, environment=environment(**settings), output=output, errors=errors)
        try:
            status = process.wait(60)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, status, _all_of(output), _all_of(errors))


def _all_of(output: IO[str]) -> str:
    output.seek(0)
    return output.read()


# The tests of limits set their own.
HIGH_LIMITS = {
    "WS_MESSAGES_PER_S": "100000",
    "WS_BYTES_PER_S": str(2**30),
    "WS_USER_MESSAGES_PER_S": "1000000",
    "WS_USER_BYTES_PER_S": str(2**30),
    "WS_USER_QUERIES_PER_S": "1000000",
    "WS_MAX_CONNECTIONS_PER_USER": "100000",
    "WS_MAX_CONNECTIONS_PER_IP": "100000",
    "WS_IP_REFUSALS_PER_S": "100000",
    "WS_MAX_ROOMS_PER_CONNECTION": "10000",
    "WS_MAX_ROOMS_PER_USER": "1000000",
}


class Worker:
    _command: tuple[str, ...] = ("wsserver", "serve")
    _limits = HIGH_LIMITS

    def __init__(self, redis_url: str, **settings: str) -> None:
        self.port = int(settings.pop("PORT", 0)) or free_port()
        self._settings = {
            "PORT": str(self.port),
            "WS_REDIS_URL": redis_url,
            "WS_JWT_SECRET": SECRET,
            "WS_ALLOWED_ORIGINS": ORIGIN,
            "WS_DRAIN_WINDOW_S": "0",
            **self._limits,
            **settings,
        }
        if not self._settings["WS_JWT_SECRET"]:  # the environment would set an empty secret
            del self._settings["WS_JWT_SECRET"]
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the worker
        self._connections: list[ClientConnection] = []
        self.process = self._spawn()

    def _spawn(self) -> Process | subprocess.Popen[str]:
        variables = environment(**self._settings)
        return fork_server().start(*self._command, environment=variables, output=self._output, errors=self._output)

    def start_again(self) -> None:
        self.process.wait(120)
        self.process = self._spawn()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 120) -> int:
        return self.process.wait(timeout_s)

    def remove(self) -> None:
        self.process.kill()
        self.process.wait()
        self._output.close()

    def output(self) -> str:
        position = os.lseek(self._output.fileno(), 0, os.SEEK_CUR)
        return os.pread(self._output.fileno(), position, 0).decode()

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    # As a client.

    async def http(self, path: str, *headers: str, method: str = "GET") -> tuple[int, str]:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]
        return await self.raw("\r\n".join(lines).encode())

    async def raw(self, request: bytes) -> tuple[int, str]:
        """Status and the whole answer; status 0 if nothing listens or the connection is cut without
        an answer.
        """
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionRefusedError:
            return 0, ""
        try:
            writer.write(request)
            answer = (await asyncio.wait_for(reader.read(), 60)).decode("latin-1")
        except ConnectionResetError:
            return 0, ""
        finally:
            writer.close()
        return (int(answer.split(" ", 2)[1]) if answer else 0), answer

    async def ready(self) -> Self:
        await until_status(self, "/readyz", 200)
        return self

    async def metrics(self) -> dict[str, float]:
        _, answer = await self.http("/metrics")
        lines = answer.partition("\r\n\r\n")[2].splitlines()
        samples = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    async def client(self, user: str = "alice", **options: Any) -> Client:
        client = Client(await self.connect(user, **options))
        assert (await client.event("welcome"))["user"] == user
        return client

    async def connect(self, user: str = "alice", path: str = "/ws", **options: Any) -> ClientConnection:
        headers = {"Authorization": f"Bearer {mint(SECRET, user, 600)}"}
        options = {"additional_headers": headers, "ping_interval": None, "open_timeout": 60, **options}
        self._connections.append(await connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, **options))
        return self._connections[-1]

    async def cut_clients(self) -> None:
        """Close the sockets of all clients: otherwise they stay open until a collection of garbage."""
        for connection in self._connections:
            connection.transport.abort()
        await asyncio.sleep(0)


class ColdWorker(Worker):
    """A worker in a new interpreter, as systemd starts it."""

    def _spawn(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", *self._command]
        return subprocess.Popen(
            command, env=environment(**self._settings), stdout=self._output, stderr=subprocess.STDOUT, text=True
        )


class Client:
    """Commands out, events in."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.since: dict[str, Any] | None = None

    async def send(self, **command: Any) -> None:
        await self.connection.send(json.dumps(command))

    async def next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(await asyncio.wait_for(self.connection.recv(), 60))
        return event

    async def event(self, kind: str) -> dict[str, Any]:
        event = await self.next()
        assert event["type"] == kind, event
        return event

    async def join(self, room: str = "r", since: dict[str, Any] | None = None) -> dict[str, Any]:
        await self.send(type="join", room=room, since=since)
        joined = await self.event("joined")
        self.since = {"epoch": joined["epoch"], "seq": joined["seq"]}
        return joined

    async def publish(self, data: Any, id: str, room: str = "r") -> None:
        await self.send(type="publish", room=room, data=data, id=id)

    async def messages(self, count: int) -> list[Any]:
        """The data of the next `count` messages, whose seqs must follow each other; ignores acks."""
        data = []
        while len(data) < count:
            event = await self.next()
            if event["type"] == "ack":
                continue
            assert event["type"] == "message", event
            assert self.since is not None
            assert event["seq"] == self.since["seq"] + 1
            self.since["seq"] = event["seq"]
            data.append(event["data"])
        return data

    async def acks(self, count: int) -> list[str]:
        return [(await self.event("ack"))["id"] for _ in range(count)]

    async def closed(self) -> tuple[int, str]:
        await asyncio.wait_for(self.connection.wait_closed(), 60)
        return self.connection.close_code or 0, self.connection.close_reason or ""


async def until_status(worker: Worker, path: str, status: int) -> None:
    deadline = time.monotonic() + 120
    while (await worker.http(path))[0] != status:
        assert worker.process.poll() is None, worker.output()
        assert time.monotonic() < deadline, worker.output()
        await asyncio.sleep(0.02)
