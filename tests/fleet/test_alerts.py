# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Alerts are raised by real faults, and cleared by the fix."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from clients import connection, finish, join, progress, watching, witness
from fleet import Fleet, eventually
from observer import Observer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

LOCK = "/var/lib/ws-fleet/lock"

# These alerts cover minutes or hours: earlier tests, or a busy machine, may have raised them.
LONG_MEMORY = {
    "WsEventLoopLag",
    "WsDeliverySlow",
    "WsMessageDrops",
    "WsSlowConsumers",
    "WsErrorBudgetBurnFast",
    "WsErrorBudgetBurnSlow",
}


@pytest.fixture
def calm(hurried: Observer) -> Observer:
    """No alert is raised at the beginning, whatever earlier tests did."""
    try:
        eventually(lambda: hurried.alerts().keys() <= LONG_MEMORY, 120, "no alert", every=1)
    except AssertionError as error:
        raise AssertionError(hurried.alerts()) from error
    return hurried


def workers(fleet: Fleet) -> int:
    return sum(len(fleet.instances(host)) for host in fleet.worker_hosts)


def test_partial_failures_raise_alerts(fleet: Fleet, calm: Observer) -> None:
    """A stopped worker, a drained worker, a stopped exporter, and a fleet's lock left by a run."""
    record = {
        "run": "r",
        "owner": "alice@control",
        "reason": "a test",
        "since": time.time() - 9e4,
        "seen": time.time() - 4e3,
    }
    alerts = ("WsWorkerDown", "WsDrainDoesNotEnd", "WsTargetDown", "WsRolloutLockHeld")
    fleet.ssh(fleet.worker_host, f"mkdir -p /var/lib/ws-fleet; echo {shlex.quote(json.dumps(record))} >{LOCK}")
    try:
        fleet.ssh(
            fleet.worker_host, "systemctl stop ws-server@83; ws-server ctl drain --instance 82 --by test --window 0"
        )
        fleet.ssh(fleet.redis_host, "systemctl stop prometheus-redis-exporter")
        calm.raised(*alerts)
        print(calm.ssh("ws-fleet"))
    finally:
        fleet.ssh(
            fleet.worker_host, f"rm {LOCK}; systemctl start ws-server@83; ws-server ctl undrain --instance 82 --by test"
        )
        fleet.ssh(fleet.redis_host, "systemctl start prometheus-redis-exporter")
    calm.cleared(*alerts)


@pytest.mark.parametrize(
    ("host", "stop", "start", "alerts"),
    [
        ("redis_host", "redis-server", "redis-server", ("WsRedisDown", "WsWorkerNotReady", "WsFleetBelowQuorum")),
        ("postgres_host", "'postgresql@*'", "postgresql", ("WsPostgresDown",)),
        ("edge", "nginx", "nginx", ("WsEdgeDown",)),
    ],
    ids=["Redis", "Postgres", "the edge"],
)
def test_a_service_is_down(
    fleet: Fleet, calm: Observer, host: str, stop: str, start: str, alerts: tuple[str, ...]
) -> None:
    there = getattr(fleet, host)
    try:
        fleet.ssh(there, f"systemctl stop {stop}")
        calm.raised(*alerts)
    finally:
        fleet.ssh(there, f"systemctl start {start}")
    calm.cleared(*alerts)


def test_an_expiring_certificate(fleet: Fleet, calm: Observer) -> None:
    renew = "rm /etc/ssl/ws/edge.pem; "
    command = fleet.ssh(fleet.edge, "sed -n 's/^ExecStart=//p' /etc/systemd/system/ws-edge-certificate.service").split()
    command[1] = "6"
    try:
        fleet.ssh(fleet.edge, renew + shlex.join(command))
        calm.raised("WsCertificateExpiring")
    finally:
        fleet.ssh(fleet.edge, f"{renew} systemctl start ws-edge-certificate.service")
    calm.cleared("WsCertificateExpiring")


async def test_old_processes_of_nginx_linger(fleet: Fleet, calm: Observer) -> None:
    processes = int(await asyncio.to_thread(fleet.ssh, fleet.edge, "nproc"))
    async with AsyncExitStack() as stack:
        # A client keeps one process of its configuration, and a few keep all of them.
        for _reload in range(4 * processes + 1):
            for _client in range(2):
                await stack.enter_async_context(connection(fleet, "early"))
            await asyncio.to_thread(fleet.ssh, fleet.edge, "systemctl reload nginx; sleep 0.5")
        await asyncio.to_thread(calm.raised, "WsNginxLingering")
    await asyncio.to_thread(calm.cleared, "WsNginxLingering")


def test_limits_are_nearly_reached(fleet: Fleet, calm: Observer) -> None:
    """The limits of Redis' memory and a worker's files are lowered to just above their use, and a
    small file system is filled.
    """
    login = 'REDISCLI_AUTH="$(cat /etc/redis/admin-password)" redis-cli -s /run/redis/redis-server.sock --user admin'
    memory = fleet.ssh(fleet.redis_host, f"{login} CONFIG GET maxmemory").split()[1]
    # Without the rooms' messages, which leave Redis from 70 % on once Postgres has them.
    used = "$(" + login + " INFO memory | sed -n 's/^used_memory_overhead:\\([0-9]*\\).*/\\1/p')"
    prlimit = f"prlimit --pid {fleet.pid('81')}"
    files = fleet.ssh(fleet.worker_host, f"{prlimit} --nofile --output SOFT --noheadings").strip()
    opened = f"$(ls /proc/{fleet.pid('81')}/fd | wc -l)"
    alerts = ("WsRedisMemoryHigh", "WsDescriptorsNearLimit", "WsDiskFilling", "WsDiskFull")
    try:
        fleet.ssh(fleet.redis_host, f"{login} CONFIG SET maxmemory $(({used} * 11 / 10))")
        fleet.ssh(fleet.worker_host, f"{prlimit} --nofile=$(({opened} * 12 / 10)):")
        fleet.ssh(fleet.worker_host, "mount -t tmpfs -o size=1M tmpfs /srv && head -c 1000K /dev/zero >/srv/filled")
        calm.raised(*alerts)
    finally:
        fleet.ssh(fleet.worker_host, "umount /srv")
        fleet.ssh(fleet.redis_host, f"{login} CONFIG SET maxmemory {memory}")
        fleet.ssh(fleet.worker_host, f"{prlimit} --nofile={files}:")
    calm.cleared(*alerts)


async def test_a_worker_is_nearly_full(fleet: Fleet, calm: Observer) -> None:
    """The worker's limit is lowered to four clients, and more clients connect."""
    override = "/run/systemd/system/ws-server@83.service.d"
    restart = "systemctl daemon-reload; systemctl restart ws-server@83"
    lower = (
        f"mkdir -p {override}; printf '[Service]\nEnvironment=WS_MAX_CONNECTIONS=4\n' >{override}/cap.conf; {restart}"
    )
    try:
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, lower)
        async with AsyncExitStack() as stack:
            for n in range(6 * workers(fleet)):
                with contextlib.suppress(InvalidStatus):  # at its limit it refuses, and the edge tries no other
                    await stack.enter_async_context(connection(fleet, f"visitor{n}"))
            await asyncio.to_thread(calm.raised, "WsConnectionsNearCap")
        await asyncio.to_thread(calm.cleared, "WsConnectionsNearCap")
    finally:
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, f"rm -r {override}; {restart}")


@pytest.mark.observability
async def test_many_clients_do_not_read(fleet: Fleet, calm: Observer) -> None:
    """The worker stops their live delivery, and closes them after half a minute.

    Other clients notice nothing. Both alerts cover five minutes.
    """
    alerts = ("WsMessageDrops", "WsSlowConsumers")
    await asyncio.to_thread(calm.cleared, *alerts, within=600)
    one = witness(fleet, connections=4, publishers=6, rate=24.0, size=40_000)
    [room] = one.rooms
    async with AsyncExitStack() as stack:
        for n in range(8 * workers(fleet)):
            await join(await stack.enter_async_context(sleeper(fleet, f"sleeper{n}")), room)
        async with one:
            await asyncio.to_thread(calm.raised, *alerts, within=150)
            report = await finish(one)
        assert report.disconnects == 0
    await asyncio.to_thread(calm.cleared, *alerts, within=600)


@contextlib.asynccontextmanager
async def sleeper(fleet: Fleet, user: str) -> AsyncIterator[ClientConnection]:
    """A client that reads only on request, and has a small buffer."""
    way = socket.socket()
    way.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    way.setblocking(False)
    await asyncio.get_running_loop().sock_connect(way, (fleet.address(fleet.edge), 443))
    headers = {"Authorization": f"Bearer {fleet.token(user)}"}
    options: dict[str, Any] = {"ssl": fleet.trust, "additional_headers": headers, "proxy": None, "close_timeout": 1}
    client = await connect(fleet.url, sock=way, ping_interval=None, max_queue=1, **options)
    try:
        yield client
    finally:
        client.transport.abort()


@pytest.mark.observability
async def test_a_burning_error_budget(fleet: Fleet, calm: Observer) -> None:
    """Clients cannot publish without Redis.

    The alert clears after half an hour without errors, for which the test does not wait.
    """

    async def complain(client: ClientConnection) -> None:
        while True:
            await client.send(json.dumps({"type": "publish", "room": "lobby", "data": 1, "id": "1"}))
            await client.recv()

    assert "WsErrorBudgetBurnFast" not in await asyncio.to_thread(calm.alerts), "an earlier test has raised the alert"
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connection(fleet, f"complainer{n}")) for n in range(20)]
        try:
            await asyncio.to_thread(fleet.ssh, fleet.redis_host, "systemctl stop redis-server")
            complaints = [asyncio.create_task(complain(client)) for client in clients]
            await asyncio.to_thread(calm.raised, "WsErrorBudgetBurnFast", within=300)
        finally:
            await asyncio.to_thread(fleet.ssh, fleet.redis_host, "systemctl start redis-server")
        for task in complaints:
            task.cancel()
    await asyncio.to_thread(calm.cleared, "WsRedisDown", "WsWorkerNotReady", "WsFleetBelowQuorum")


@pytest.mark.observability
async def test_a_worker_with_a_slow_event_loop(fleet: Fleet, calm: Observer) -> None:
    """The worker is stopped repeatedly for more than half a second.

    The alerts cover five minutes, so they clear later.
    """
    alerts = ("WsEventLoopLag", "WsDeliverySlow")
    await asyncio.to_thread(calm.cleared, *alerts, within=600)
    # The tick is due a second after the previous one, just after the next stop.
    stutter = (
        f"for n in $(seq 30); do kill -STOP {fleet.pid('80')}; sleep 0.6; kill -CONT {fleet.pid('80')}; sleep 0.9; done"
    )
    async with watching(fleet) as witness:
        stuttering = asyncio.create_task(asyncio.to_thread(fleet.ssh, fleet.worker_host, stutter))
        await asyncio.to_thread(calm.raised, *alerts)
        await stuttering
        await progress(witness, 100)
    await asyncio.to_thread(calm.cleared, *alerts, within=600)


@pytest.mark.observability
async def test_the_archive_lags(fleet: Fleet, calm: Observer) -> None:
    """Postgres is stopped for a minute and a half."""
    async with watching(fleet, rate=20.0) as witness:
        try:
            await asyncio.to_thread(fleet.ssh, fleet.postgres_host, "systemctl stop 'postgresql@*'")
            await asyncio.to_thread(calm.raised, "WsArchiveLag", within=150)
        finally:
            await asyncio.to_thread(fleet.ssh, fleet.postgres_host, "systemctl start postgresql")
        await asyncio.to_thread(calm.cleared, "WsArchiveLag")
        await progress(witness, 50)
