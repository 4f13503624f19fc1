# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A message's way through two processes is one trace, and lines of every host reach Loki.

Loki, Tempo, Alloy and Grafana may fail without an effect on clients.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import subprocess
import time
import uuid

import pytest
from clients import assert_as_fast, connection, join, latencies_at_rest, progress, receive, watching
from fleet import ROOT, Fleet, changed, eventually
from observer import Observer
from receiver import Receiver


@pytest.fixture(scope="module")
def receiver(fleet: Fleet, observer: Observer) -> Receiver:
    receiver = Receiver(fleet, observer.host)
    if not receiver.standing_in:
        pytest.skip("this fleet has the real Loki and Tempo, or none")
    return receiver


async def publish_traced(fleet: Fleet, room: str) -> str:
    """Publish as a backend with a new trace, and return the trace's id."""
    trace = secrets.token_hex(16)
    headers = {"Authorization": f"Bearer {fleet.api_key}", "traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    body = {"room": room, "data": "traced"}
    status, _ = await asyncio.to_thread(fleet.api, "POST", "/v1/publish", body, headers=headers)
    assert status == 200
    return trace


async def test_a_message_through_two_processes_is_one_trace(fleet: Fleet, receiver: Receiver) -> None:
    room = uuid.uuid4().hex
    members = 2 * sum(len(fleet.instances(host)) for host in fleet.worker_hosts)
    async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connection(fleet, f"{room}-{n}")) for n in range(members)]
        for client in clients:
            await join(client, room)
        trace = await publish_traced(fleet, room)
        for client in clients:
            group.create_task(receive(client, "message"))

    def of_the_trace() -> dict[str, list]:
        spans = [span for span in receiver.spans() if span.trace_id == trace]
        return {name: [span for span in spans if span.span.name == name] for name in ("publish", "deliver")}

    await asyncio.to_thread(
        eventually, lambda: len(of_the_trace()["deliver"]) == members // 2, 30, "a delivery of each worker"
    )
    [publish], delivers = of_the_trace()["publish"], of_the_trace()["deliver"]
    processes = {span.resource["service.instance.id"] for span in delivers}
    assert len(processes) == members // 2, "each worker delivered once"
    assert processes > {publish.resource["service.instance.id"]}, "other workers delivered the message, too"
    assert {span.parent_id for span in delivers} == {publish.id}
    assert {span.attributes["messaging.destination.name"] for span in [publish, *delivers]} == {room}


async def test_the_measurement_of_a_traced_delivery_names_its_trace(
    fleet: Fleet, receiver: Receiver, observer: Observer
) -> None:
    async with connection(fleet, "alice") as client:
        await join(client, room := uuid.uuid4().hex)
        trace = await publish_traced(fleet, room)
        await receive(client, "message")
        query = {
            "query": "ws_publish_to_deliver_seconds_bucket",
            "start": str(time.time() - 60),
            "end": str(time.time() + 60),
        }

        def found() -> bool:
            series = observer.prometheus("query_exemplars", **query)
            return trace in {one["labels"].get("trace_id") for each in series for one in each["exemplars"]}

        await asyncio.to_thread(eventually, found, 60, "the exemplar")


async def test_lines_have_few_labels(fleet: Fleet, receiver: Receiver) -> None:
    async with connection(fleet, mark := uuid.uuid4().hex):
        pass

    def about() -> list:
        return [line for line in receiver.lines() if mark in line.text]

    await asyncio.to_thread(eventually, about, 30, "the line of the connection")
    line = about()[0]
    assert set(line.labels) == {"host", "unit", "level"}
    assert line.labels["host"] in fleet.worker_hosts
    assert line.labels["unit"].startswith("ws-server@")
    assert json.loads(line.text)["level"] == line.labels["level"]
    assert abs(line.ns / 1e9 - time.time()) < 60


async def test_a_traces_lines_are_found_by_its_id(fleet: Fleet, receiver: Receiver) -> None:
    trace = await publish_traced(fleet, uuid.uuid4().hex)

    def lines() -> list:
        return [line for line in receiver.lines() if line.metadata == {"trace_id": trace}]

    await asyncio.to_thread(eventually, lines, 30, "the line of the request")
    [line] = lines()
    assert json.loads(line.text)["event"] == "api_request"


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("kill --signal=STOP", id="hanging"),
        pytest.param("stop", id="down", marks=pytest.mark.observability),
    ],
)
async def test_no_client_waits_for_monitoring(fleet: Fleet, receiver: Receiver, what: str) -> None:
    """Loki and Tempo, and then the Alloy of the workers' host, are stopped or hang."""
    units = "loki tempo alloy grafana-server"
    before = await latencies_at_rest(fleet)
    async with watching(fleet, rate=20.0) as witness:
        await progress(witness, 100)
        try:
            for unit in units.split():
                for host in {receiver.host, *fleet.worker_hosts} if unit == "alloy" else {receiver.host}:
                    await asyncio.to_thread(fleet.ssh, host, f"systemctl {what} {unit}")
                await publish_traced(fleet, uuid.uuid4().hex)
                await progress(witness, 20)
            assert_as_fast(before, await latencies_at_rest(fleet))
        finally:
            for host in {receiver.host, *fleet.worker_hosts}:
                here = units if host == receiver.host else "alloy"
                await asyncio.to_thread(fleet.ssh, host, f"systemctl kill --signal=CONT {here}; systemctl start {here}")
        await progress(witness, 100)
        assert not any(client.disconnects for client in witness.clients), "a connection was dropped"


def test_ports_are_on_loopback_or_private(fleet: Fleet, receiver: Receiver) -> None:
    listening = fleet.ssh(receiver.host, "ss -Hltn | awk '{print $4}'").split()
    private = [fleet.address(receiver.host)] if len(fleet.hosts) > 1 else []
    for port in (3000, 3100, 3200, 4318, 4328, 12345):
        [address] = {one.rpartition(":")[0] for one in listening if one.endswith(f":{port}")}
        assert address in ["127.0.0.1", *(private if port in (3100, 4328) else [])]


def test_the_administrators_password_is_roots(fleet: Fleet, receiver: Receiver) -> None:
    assert fleet.ssh(receiver.host, "stat -c '%a %U' /etc/grafana/ws-admin-password").split() == ["600", "root"]


@pytest.mark.observability
def test_a_second_run_changes_nothing_and_a_change_restarts_only_its_service(fleet: Fleet, receiver: Receiver) -> None:
    tags = "--tags=loki,tempo,grafana,alloy"
    pids = "systemctl show --property=MainPID --value loki tempo alloy grafana-server"
    assert changed(fleet.play(tags)) == []
    before = fleet.ssh(receiver.host, pids).split()
    fleet.play(tags, "--extra-vars=tempo_retention_days=8")
    after = fleet.ssh(receiver.host, pids).split()
    assert "block_retention: 192h" in fleet.ssh(receiver.host, "cat /etc/tempo/ws.yml")
    assert [old != new for old, new in zip(before, after, strict=True)] == [False, True, False, False]
    fleet.play(tags)
    assert changed(fleet.play(tags)) == []


@pytest.mark.observability
def test_packages_from_a_signed_repository(fleet: Fleet, receiver: Receiver) -> None:
    """The same package comes from a mirror. A key that is not allowed is not trusted."""
    files = ROOT / ".lab/standins"
    wanted = {
        "vendor_packages_name": "tempo",
        "vendor_packages_debs": {},
        "vendor_packages_repository": "file:///srv/standins",
        "vendor_packages_key": str(files / "key.asc"),
    }
    fingerprint = (files / "fingerprint").read_text().strip()
    archive = subprocess.run(["tar", "-C", files / "repository", "-cz", "."], check=True, capture_output=True).stdout
    fleet.ssh(
        receiver.host,
        f"mkdir -p /srv/standins; base64 -d <<'END' | tar -C /srv/standins -xz\n{base64.b64encode(archive).decode()}\nEND\n",
    )
    home = "/var/lib/ws-vendor"

    def play(fingerprint: str, fails: bool = False, **changes: str) -> str:
        variables = wanted | {"vendor_packages_key_fingerprints": [fingerprint]} | changes
        return fleet.play(
            "--extra-vars", json.dumps(variables), playbook="../tests/fleet/vendor_package.yml", fails=fails
        )

    fleet.ssh(receiver.host, "apt-get -qq remove tempo")
    try:
        assert "vendor_packages_key_fingerprints does not allow" in play("0" * 40, fails=True)
        assert fleet.ssh(receiver.host, f"test -e {home}/key.asc && echo yes || echo no").strip() == "no"
        assert "/srv/nowhere" in play(fingerprint, fails=True, vendor_packages_repository="file:///srv/nowhere")
        fleet.ssh(
            receiver.host, "apt-get -qq update"
        )  # an unavailable vendor does not fail the host's own repositories
        assert changed(play(fingerprint))[-2].endswith(": Install the package with its dependencies from Debian")
        policy = fleet.ssh(receiver.host, "apt-cache policy tempo")
        assert "Installed: 0+standin1" in policy
        assert "/srv/standins" not in policy
        assert changed(play(fingerprint)) == []
    finally:
        fleet.ssh(receiver.host, f"rm -rf /srv/standins {home}")
        fleet.play("--tags=tempo")
