# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from playwright.async_api import Browser
from support.browser import chromium
from support.controlled import Typed
from support.postgres import Cluster
from support.redis_server import RedisServer
from support.worker import ColdWorker, Worker

from wsserver.admin import ctl
from wsserver.archive.migrate import migrate

# The same examples in every run; `HYPOTHESIS_PROFILE=search` looks for new ones, without a limit of
# time.
_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", derandomize=True, max_examples=250, stateful_step_count=50, **_COMMON)
settings.register_profile("search", max_examples=5000, stateful_step_count=80, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# Connections that only the garbage collector closes, and a browser's first pipes.
_FILES_LEFT_OPEN = 100


@pytest.fixture(autouse=True)
def closes_its_files() -> Iterator[None]:
    """A test that leaves its connections open makes a later test of its process fail."""
    before = _open_files()
    yield
    assert _open_files() < before + _FILES_LEFT_OPEN


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def run_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not pytest's directory: its name may be too long for a socket.
    directory = Path(tempfile.mkdtemp(prefix="ws-run-"))
    monkeypatch.setattr(ctl, "RUN", directory)
    monkeypatch.setattr(ctl, "INSTANCES", directory / "instances")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One Postgres for all tests. A test that stops it starts it again."""
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
async def dsn(cluster: Cluster) -> str:
    """The DSN of a fresh database with the schema."""
    dsn = await cluster.fresh_database()
    await migrate(dsn)
    return dsn


@asynccontextmanager
async def _starting(kind: type[Worker], redis: RedisServer) -> AsyncIterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start_worker(**settings: str) -> Worker:
        workers.append(kind(redis.url, **settings))
        return workers[-1]

    yield start_worker
    for worker in workers:
        await worker.cut_clients()
        worker.remove()


@pytest.fixture
async def start(redis: RedisServer) -> AsyncIterator[Callable[..., Worker]]:
    """Start a worker on the test's Redis."""
    async with _starting(Worker, redis) as start:
        yield start


@pytest.fixture
async def start_cold(redis: RedisServer) -> AsyncIterator[Callable[..., Worker]]:
    """Start a worker in a new interpreter."""
    async with _starting(ColdWorker, redis) as start:
        yield start


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests of a process. Their modules share an event loop."""
    async with chromium() as browser:
        yield browser
