# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Prometheus monitors the whole fleet, a receiver gets its alerts, and no client is affected."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from pathlib import Path

import pytest
import yaml
from clients import assert_as_fast, connection, latencies_at_rest, progress, watching
from fleet import Fleet, changed, eventually
from observer import HURRY, REST, Observer
from websockets.exceptions import InvalidStatus


def wanted_targets(fleet: Fleet) -> set[tuple[str, str, str]]:
    """Job, host and worker of all expected targets."""
    targets = {("node", host, "") for host in fleet.hosts}
    for host in fleet.worker_hosts:
        targets |= {("ws_server", host, instance) for instance in fleet.instances(host)}
    for host in fleet.edges:
        targets |= {(job, host, "") for job in ("watcher", "nginx", "edge")}
    targets |= {("redis", fleet.redis_host, ""), ("postgres", fleet.postgres_host, "")}
    assert fleet.observability
    return targets | {(job, fleet.observability["host"], "") for job in ("prometheus", "alertmanager", "blackbox")}


def await_targets(observer: Observer, wanted: set[tuple[str, str, str]]) -> None:
    """Wait until exactly these targets answer. Prometheus itself may not be back yet."""

    def settled() -> bool:
        try:
            active = observer.prometheus("targets")["activeTargets"]
            [failing] = observer.query("probe_success == 0")
        except AssertionError:
            return False
        labels = [one["labels"] for one in active if one["health"] == "up"]
        answering = {(one["job"], one["host"], one.get("worker", "")) for one in labels}
        return len(active) == len(wanted) and answering == wanted and not failing

    eventually(settled, 120, f"{wanted} are seen", every=1)


def test_every_target_is_up(fleet: Fleet, observer: Observer) -> None:
    await_targets(observer, wanted_targets(fleet))


@pytest.mark.observability
def test_disabled_monitoring_is_stopped_and_not_a_target(fleet: Fleet, observer: Observer) -> None:
    """Only the job of the hosts and only Grafana are enabled, and then everything again."""
    wanted = wanted_targets(fleet)
    unwanted = {target for target in wanted if target[0] in ("redis", "postgres", "nginx")}
    parts = "systemctl is-active grafana-server loki tempo alloy; systemctl is-enabled loki; true"
    here = {"exporters_enabled": ["node"], "ws_observability_parts": ["grafana"]}
    fleet.play("--tags=observability", "--extra-vars", json.dumps(here))
    await_targets(observer, wanted - unwanted)
    assert observer.ssh(parts).split() == ["active", "inactive", "inactive", "inactive", "disabled"]
    assert fleet.ssh(fleet.redis_host, "systemctl is-active prometheus-redis-exporter; true").strip() == "inactive"
    assert changed(fleet.play("--tags=observability"))
    await_targets(observer, wanted)
    assert observer.ssh(parts).split() == ["active"] * 4 + ["enabled"]


@pytest.mark.observability
def test_a_removed_worker_host_is_not_a_target(fleet: Fleet, observer: Observer, tmp_path: Path) -> None:
    """The inventory is edited. The host is a target again once it is back in the inventory."""
    if len(fleet.worker_hosts) == 1:
        pytest.skip("the fleet has one worker host")
    host = fleet.worker_hosts[-1]
    assert fleet.hosts[host]["groups"] == ["ws_workers"]
    inventory = yaml.safe_load((fleet.inventory / "hosts.yml").read_text())
    del inventory["all"]["hosts"][host]
    del inventory["all"]["children"]["ws_workers"]["hosts"][host]
    without = tmp_path / "hosts.yml"
    without.write_text(yaml.safe_dump(inventory))
    wanted = wanted_targets(fleet)
    fleet.ssh(host, "systemctl disable --now ws-server@{80..83}")
    fleet.play(inventory=without)
    await_targets(observer, {target for target in wanted if target[1] != host})
    fleet.play()
    await_targets(observer, wanted)


# Stores the body of each request, which is one line.
LISTENER = """
import http.server

class Listener(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open("/run/heard", "ab") as file:
            file.write(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", 8099), Listener).serve_forever()
"""


@pytest.mark.observability
def test_the_webhook_receives_an_alert(fleet: Fleet, observer: Observer) -> None:
    observer.ssh(f"rm -f /run/heard; systemd-run --quiet --unit=listener python3 -c {shlex.quote(LISTENER)}")
    fleet.play(
        "--tags=prometheus", "--extra-vars", json.dumps({"prometheus_webhooks": ["http://127.0.0.1:8099/alerts"]})
    )
    observer.ssh(HURRY)

    def heard() -> set[str]:
        told = map(json.loads, observer.ssh("cat /run/heard 2>/dev/null; true").splitlines())
        return {alert["labels"]["alertname"] + " " + alert["status"] for each in told for alert in each["alerts"]}

    try:
        fleet.ssh(fleet.redis_host, "systemctl stop prometheus-redis-exporter")
        eventually(lambda: "WsTargetDown firing" in heard(), 180, "the webhook gets the alert", every=2)
    finally:
        fleet.ssh(fleet.redis_host, "systemctl start prometheus-redis-exporter")
        observer.ssh(REST)
    fleet.play("--tags=prometheus")
    observer.ssh("systemctl stop listener")


async def test_every_recording_rule_has_data(fleet: Fleet, hurried: Observer) -> None:
    with contextlib.suppress(InvalidStatus):  # for the rule about refused clients
        async with connection(fleet, ""):
            pass
    async with watching(fleet) as witness:
        await progress(witness, 200)

        def empty() -> list[str]:
            groups = hurried.prometheus("rules", type="record")["groups"]
            names = {rule["name"] for group in groups for rule in group["rules"]}
            assert len(names) > 30
            return [name for name, series in zip(names, hurried.query(*names), strict=True) if not series]

        await asyncio.to_thread(eventually, lambda: not empty(), 60, "each rule has a result", every=1)
        [[rate]] = await asyncio.to_thread(hurried.query, "fleet:ws_messages_in:rate5m")
        assert float(rate["value"][1]) > 0
    print(await asyncio.to_thread(hurried.ssh, "ws-fleet"))


def test_the_rules_are_as_deployed(observer: Observer) -> None:
    health = {rule["health"] for group in observer.prometheus("rules")["groups"] for rule in group["rules"]}
    assert health <= {"ok", "unknown"}  # unknown: not evaluated yet


async def test_monitoring_affects_no_client(fleet: Fleet, hurried: Observer) -> None:
    """Prometheus and the exporters hang, are killed and restart.

    No client and no worker is affected.
    """
    kill = "systemctl kill 'prometheus*.service' --signal="

    async def everywhere(command: str) -> None:
        for host in fleet.hosts:
            await asyncio.to_thread(fleet.ssh, host, command)

    before = await latencies_at_rest(fleet)
    async with watching(fleet) as witness:
        await progress(witness, 100)
        try:
            await everywhere(f"{kill}STOP")
            assert_as_fast(before, await latencies_at_rest(fleet))
        finally:
            await everywhere(f"{kill}KILL")
        await progress(witness, 300)
        assert not any(client.disconnects for client in witness.clients), "a connection was dropped"
    await asyncio.to_thread(await_targets, hurried, wanted_targets(fleet))
