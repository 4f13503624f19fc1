# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The run's own Redis and Postgres, started as in the unit tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from support.postgres import Cluster
from support.redis_server import RedisServer

from bench.process import Cores, Tree

# The stores need a disk: /tmp may be memory, where an append only file costs nothing.
_DISK = "/var/tmp"  # noqa: S108 - the directories below it are made by mkdtemp


class Stores(NamedTuple):
    redis_url: str
    redis: Tree
    postgres_dsn: str
    postgres: Tree


@contextmanager
def stores(cores: Cores, fsync: str = "always") -> Iterator[Stores]:
    """`fsync`: Redis's appendfsync; "always" is what the redis role deploys."""
    tempfile.tempdir = _DISK
    redis = RedisServer(fsync)
    postgres = Cluster()
    try:
        redis.start()
        redis_tree = Tree(int(redis.client().info("server")["process_id"]))
        postgres_tree = Tree(int((postgres.directory / "data/postmaster.pid").read_text().split()[0]))
        for tree in (redis_tree, postgres_tree):
            tree.pin(cores.stores)
        yield Stores(redis.url, redis_tree, postgres.dsn, postgres_tree)
    finally:
        redis.remove()
        postgres.remove()
        tempfile.tempdir = None
