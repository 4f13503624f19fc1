# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Prometheus sees the whole fleet, raises its alerts for real faults and takes them back, and is in nobody's way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from clients import connection, progress, watching
from fleet import Fleet, changed, eventually
from observer import HURRY, REST, Observer
from websockets.exceptions import InvalidStatus

LOCK = "/var/lib/ws-fleet/lock"


@pytest.fixture(scope="module")
def observer(fleet: Fleet) -> Observer:
    if fleet.observability is None:
        pytest.skip("nobody observes this fleet")
    return Observer(fleet, fleet.observability)


@pytest.fixture(scope="module")
def hurried(observer: Observer) -> Iterator[Observer]:
    """Alerts are raised and taken back in seconds."""
    observer.ssh(HURRY)
    yield observer
    observer.ssh(REST)


@pytest.fixture
def calm(hurried: Observer) -> Observer:
    """Nothing is wrong at the beginning, whatever the tests before have done."""
    eventually(lambda: not hurried.alerts(), 120, "no alert")
    return hurried


def wanted_targets(fleet: Fleet) -> set[tuple[str, str, str]]:
    """Job, host and worker of all that there is to ask."""
    targets = {("node", host, "") for host in fleet.hosts}
    for host in fleet.worker_hosts:
        targets |= {("ws_server", host, instance) for instance in fleet.instances(host)}
    for host in fleet.edges:
        targets |= {(job, host, "") for job in ("watcher", "nginx", "edge")}
    targets |= {("redis", fleet.redis_host, ""), ("postgres", fleet.postgres_host, "")}
    assert fleet.observability
    return targets | {(job, fleet.observability["host"], "") for job in ("prometheus", "alertmanager", "blackbox")}


def seen_targets(observer: Observer) -> set[tuple[str, str, str]]:
    """Those that answer; none while Prometheus itself is not back yet."""
    try:
        labels = [one["metric"] for one in observer.query('up{host!=""} == 1 unless probe_success == 0')]
    except AssertionError:
        return set()
    return {(one["job"], one["host"], one.get("worker", "")) for one in labels}


def test_every_target_is_up(fleet: Fleet, observer: Observer) -> None:
    wanted = wanted_targets(fleet)
    eventually(lambda: seen_targets(observer) == wanted, 60, f"{wanted} are seen")
    active = observer.prometheus("targets")["activeTargets"]
    assert len(active) == len(wanted)


def test_one_that_is_no_longer_wanted_is_no_target(fleet: Fleet, observer: Observer) -> None:
    """Of all jobs only the hosts', and then all of them again."""
    wanted = wanted_targets(fleet)
    unwanted = {target for target in wanted if target[0] in ("redis", "postgres", "nginx")}
    fleet.play("--tags=observability", "--extra-vars", json.dumps({"exporters_enabled": ["node"]}))
    eventually(lambda: seen_targets(observer) == wanted - unwanted, 90, "only the others are asked")
    assert changed(fleet.play("--tags=observability"))
    eventually(lambda: seen_targets(observer) == wanted, 90, "all are asked again")


async def test_every_recording_rule_has_data(fleet: Fleet, hurried: Observer) -> None:
    with contextlib.suppress(InvalidStatus):  # for the rule about those who are refused
        async with connection(fleet, ""):
            pass
    async with watching(fleet) as witness:
        await progress(witness, 200)

        def empty() -> list[str]:
            groups = hurried.prometheus("rules", type="record")["groups"]
            names = {rule["name"] for group in groups for rule in group["rules"]}
            assert len(names) > 30
            return [name for name in sorted(names) if not hurried.query(name)]

        await asyncio.to_thread(eventually, lambda: not empty(), 60, "each rule has a result")
        assert float((await asyncio.to_thread(hurried.query, "fleet:ws_messages_in:rate5m"))[0]["value"][1]) > 0
    print(await asyncio.to_thread(hurried.ssh, "ws-fleet"))


def test_the_rules_are_as_deployed(observer: Observer) -> None:
    health = {rule["health"] for group in observer.prometheus("rules")["groups"] for rule in group["rules"]}
    assert health <= {"ok", "unknown"}  # unknown: not evaluated yet


# Faults, their alerts, and the mends.


def test_what_goes_wrong_in_parts(fleet: Fleet, calm: Observer) -> None:
    """A worker is stopped, one is drained, an exporter is stopped, and a run has left the lock of the fleet."""
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


def test_redis_is_down(fleet: Fleet, calm: Observer) -> None:
    alerts = ("WsRedisDown", "WsWorkerNotReady", "WsFleetBelowQuorum")
    try:
        fleet.ssh(fleet.redis_host, "systemctl stop redis-server")
        calm.raised(*alerts)
    finally:
        fleet.ssh(fleet.redis_host, "systemctl start redis-server")
    calm.cleared(*alerts)


def test_postgres_is_down(fleet: Fleet, calm: Observer) -> None:
    try:
        fleet.ssh(fleet.postgres_host, "systemctl stop 'postgresql@*'")
        calm.raised("WsPostgresDown")
    finally:
        fleet.ssh(fleet.postgres_host, "systemctl start postgresql")
    calm.cleared("WsPostgresDown")


def test_the_edge_is_down(fleet: Fleet, calm: Observer) -> None:
    try:
        fleet.ssh(fleet.edge, "systemctl stop nginx")
        calm.raised("WsEdgeDown")
    finally:
        fleet.ssh(fleet.edge, "systemctl start nginx")
    calm.cleared("WsEdgeDown")


def test_the_certificate_runs_out(fleet: Fleet, calm: Observer) -> None:
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


@pytest.mark.long
async def test_the_archive_lags(fleet: Fleet, calm: Observer) -> None:
    """Without Postgres for more than a minute: a minute and a half."""
    async with watching(fleet, rate=20.0) as witness:
        try:
            await asyncio.to_thread(fleet.ssh, fleet.postgres_host, "systemctl stop 'postgresql@*'")
            await asyncio.to_thread(calm.raised, "WsArchiveLag", within=150)
        finally:
            await asyncio.to_thread(fleet.ssh, fleet.postgres_host, "systemctl start postgresql")
        await asyncio.to_thread(calm.cleared, "WsArchiveLag")
        await progress(witness, 50)


async def test_what_watches_is_in_nobodys_way(fleet: Fleet, observer: Observer) -> None:
    """Prometheus and the exporters hang, are killed, and come back; no client notices, and no worker is late for it."""
    units = "'prometheus.service' 'prometheus-*.service'"

    async def everywhere(command: str) -> None:
        for host in fleet.hosts:
            await asyncio.to_thread(fleet.ssh, host, command)

    async with watching(fleet) as witness:
        await progress(witness, 100)
        await everywhere(f"systemctl kill --signal=STOP {units}")
        begin = time.monotonic()
        await progress(witness, 2000)  # twenty seconds, and more than one scrape
        print(f"2000 messages in {time.monotonic() - begin:.1f} s while nobody watched")
        await everywhere(f"systemctl kill --signal=KILL {units}")
        await progress(witness, 500)
        assert not any(client.disconnects for client in witness.clients), "a connection was dropped"
    wanted = wanted_targets(fleet)
    await asyncio.to_thread(eventually, lambda: seen_targets(observer) == wanted, 120, "all are back")
