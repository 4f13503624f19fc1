# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from support.redis_server import RedisServer
from support.worker import Worker

# The same examples in every run; `HYPOTHESIS_PROFILE=search` looks for new ones, for as long as one likes.
_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", derandomize=True, max_examples=250, stateful_step_count=50, **_COMMON)
settings.register_profile("search", max_examples=5000, stateful_step_count=80, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def start(redis: RedisServer) -> Iterator[Callable[..., Worker]]:
    """Start a worker on the test's Redis."""
    workers: list[Worker] = []

    def start_worker(**settings: str) -> Worker:
        workers.append(Worker(redis.url, **settings))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.remove()
