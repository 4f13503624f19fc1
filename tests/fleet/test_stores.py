# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Redis and Postgres move to another host while clients talk; see ci/stores.sh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from clients import finish, progress, witness
from fleet import Fleet, changed, eventually
from rollouts import assert_settled, kill_playbook, links

pytestmark = pytest.mark.stores

SHORT_WATCH = "--extra-vars=ws_server_canary_s=3"
LOGIN = 'REDISCLI_AUTH="$(cat /etc/redis/admin-password)" redis-cli --user admin'
Inventory = Callable[..., Path]


@pytest.fixture
def inventory(fleet: Fleet, tmp_path: Path) -> Inventory:
    """The inventory as an operator edits it to have these stores on a host."""
    contents = yaml.safe_load((fleet.inventory / "hosts.yml").read_text())

    def stores_on(host: str, groups: tuple[str, ...] = ("ws_redis", "ws_postgres"), **variables: Any) -> Path:
        for group in groups:
            contents["all"]["children"][group]["hosts"] = {host: None}
        contents["all"]["hosts"][host] |= variables
        path = tmp_path / f"stores-on-{host}.yml"
        path.write_text(yaml.safe_dump(contents, sort_keys=False))
        return path

    return stores_on


@pytest.fixture
def other(fleet: Fleet) -> str:
    """The host that has no part in the fleet yet."""
    [host] = [host for host, facts in fleet.hosts.items() if facts["groups"] == ["ws_spare"]]
    return host


def pids(fleet: Fleet) -> dict[str, int]:
    return {instance: fleet.pid(instance) for instance in fleet.instances()}


def states(fleet: Fleet, host: str) -> list[str]:
    """The states of Redis on the host, and of the units that forward its clients."""
    units = "redis-server.service ws-redis-forward.socket ws-redis-forward.service"
    return fleet.ssh(host, f"systemctl is-active {units}", check=False).split()


def rows(fleet: Fleet, host: str, room: str) -> int:
    query = f"select count(*) from messages where room = '{room}'"
    return int(fleet.ssh(host, f'runuser -u postgres -- psql -qAt ws -c "{query}"'))


@pytest.mark.parametrize("playbook", ["site.yml", "rolling_update.yml"])
def test_no_playbook_leaves_a_store_behind(fleet: Fleet, inventory: Inventory, other: str, playbook: str) -> None:
    before = pids(fleet)
    said = " ".join(fleet.play(playbook=playbook, inventory=inventory(other), fails=True).split())
    for store in ("Redis", "Postgres"):
        assert f"The workers of {fleet.worker_host} use the {store} on {fleet.worker_host}" in said, said[-6000:]
    assert f"move_store with -e ws_from={fleet.worker_host}" in said
    assert changed(said) == []
    assert pids(fleet) == before
    assert fleet.ssh(other, "ls /etc/redis /etc/postgresql 2>/dev/null", check=False) == ""


async def move(fleet: Fleet, inventory: Path, host: str, killed_in: list[str]) -> str:
    """Run the playbook, kill it in each of these tasks, and then run it to its end."""
    arguments = [SHORT_WATCH, f"--extra-vars=ws_from={host}"]
    for task in killed_in:
        await asyncio.to_thread(kill_playbook, fleet, "move_store.yml", task, arguments, inventory=inventory)
    return await asyncio.to_thread(fleet.play, *arguments, playbook="move_store.yml", inventory=inventory)


@pytest.mark.parametrize(
    ("there", "killed_in"),
    [
        pytest.param(True, ["Make Redis a replica", "Hand over", "Restart the worker"], id="interrupted"),
        pytest.param(False, [], id="back"),
    ],
)
async def test_stores_move_while_clients_talk(
    fleet: Fleet, inventory: Inventory, other: str, there: bool, killed_in: list[str]
) -> None:
    """The stores move to a bare host by runs that are killed repeatedly, and back to the host with the old data."""
    old, new = (fleet.worker_host, other) if there else (other, fleet.worker_host)
    hosts = inventory(new)
    before = links(fleet)
    one = witness(fleet, rate=25.0)
    [room] = one.rooms
    async with one:
        await progress(one, 100)
        said = await move(fleet, hosts, old, killed_in)
        await progress(one, 100)
        report = await finish(one)
    assert f"use the stores of {new} (Redis) and {new} (Postgres)" in " ".join(said.split())
    print(f"longest silence {report.longest_silence_s:.2f} s")
    assert not set(links(fleet).values()) & set(before.values())
    assert_settled(fleet)
    assert states(fleet, old) == ["inactive", "inactive", "inactive"]
    assert states(fleet, new)[0] == "active"
    assert fleet.ssh(new, f"{LOGIN} ROLE").startswith("master")
    assert fleet.ssh(old, "ls /etc/systemd/system/ws-redis-forward.* 2>/dev/null", check=False) == ""
    assert "ws_moved_" in fleet.ssh(old, "runuser -u postgres -- psql -qAt -c 'select datname from pg_database'")
    await asyncio.to_thread(
        eventually, lambda: rows(fleet, new, room) >= report.acknowledged, 60, "the archive has everything"
    )
    assert rows(fleet, new, room) == report.acknowledged


def test_what_comes_after_a_move(fleet: Fleet, inventory: Inventory, other: str) -> None:
    """No store is left to move, site completes the change, and rollback refuses because the data would be lost."""
    home = inventory(fleet.worker_host)
    said = fleet.play(f"--extra-vars=ws_from={other}", SHORT_WATCH, playbook="move_store.yml", inventory=home)
    assert not [task for task in changed(said) if "redis : " in task or "postgres : " in task], changed(said)
    fleet.play(SHORT_WATCH, inventory=home)
    said = " ".join(fleet.play(playbook="rollback.yml", inventory=home, fails=True).split())
    assert "whose settings name another Redis: the data has moved since" in said, said[-6000:]
    assert fleet.whole()


def assert_the_shop_serves(fleet: Fleet, host: str) -> None:
    """The other Redis and the other database of the host: see ci/stores.sh."""
    assert fleet.ssh(host, "redis-cli get shop:1").strip() == "apples"
    assert fleet.ssh(host, "runuser -u postgres -- psql -qAt shop -c 'select name from goods'").strip() == "apples"


async def test_each_store_moves_alone(fleet: Fleet, inventory: Inventory) -> None:
    """In a fleet of two worker hosts, Redis moves beside another Redis, and then the database into a shared cluster."""
    old, new = fleet.worker_hosts
    refused = await asyncio.to_thread(
        fleet.play, f"--extra-vars=ws_from={old}", "--check", playbook="move_store.yml", fails=True
    )
    assert "move_store has no check mode" in " ".join(refused.split())
    one = witness(fleet, rate=25.0)
    [room] = one.rooms
    async with one:
        await progress(one, 100)
        hosts = inventory(new, ("ws_redis",), redis_instance="ws", redis_port=6380, postgres_shared=True)
        said = await move(fleet, hosts, old, [])
        assert f"use the stores of {new} (Redis) and {old} (Postgres)" in " ".join(said.split())
        await progress(one, 100)
        said = await move(fleet, inventory(new, ("ws_postgres",)), old, [])
        assert f"use the stores of {new} (Redis) and {new} (Postgres)" in " ".join(said.split())
        await progress(one, 100)
        report = await finish(one)
    assert_settled(fleet)
    assert states(fleet, old) == ["inactive", "inactive", "inactive"]
    assert fleet.ssh(new, LOGIN.replace("redis-cli", "redis-cli -p 6380") + " ROLE").startswith("master")
    assert_the_shop_serves(fleet, new)
    await asyncio.to_thread(
        eventually, lambda: rows(fleet, new, room) >= report.acknowledged, 60, "the archive has everything"
    )
    assert rows(fleet, new, room) == report.acknowledged


async def test_both_stores_come_back_from_where_they_are_not_alone(fleet: Fleet) -> None:
    """The host that they leave has other services beside them, and the inventory no longer has its variables of the stores.

    The first run is killed after it has copied the database: the next run recognizes the copy.
    """
    new, old = fleet.worker_hosts
    one = witness(fleet, rate=25.0)
    [room] = one.rooms
    async with one:
        await progress(one, 100)
        said = await move(fleet, fleet.inventory, old, ["Hand over"])
        assert f"use the stores of {new} (Redis) and {new} (Postgres)" in " ".join(said.split())
        await progress(one, 100)
        report = await finish(one)
    assert_settled(fleet)
    left = "systemctl is-active redis-server@ws.service ws-redis-forward.socket ws-redis-forward.service redis-server.service"
    assert fleet.ssh(old, left, check=False).split() == ["inactive", "inactive", "inactive", "active"]
    assert fleet.ssh(new, f"{LOGIN} ROLE").startswith("master")
    assert_the_shop_serves(fleet, old)
    assert "ws_moved_" in fleet.ssh(old, "runuser -u postgres -- psql -qAt -c 'select datname from pg_database'")
    await asyncio.to_thread(
        eventually, lambda: rows(fleet, new, room) >= report.acknowledged, 60, "the archive has everything"
    )
    assert rows(fleet, new, room) == report.acknowledged
