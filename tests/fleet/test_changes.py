# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Changes by the operator: settings, the number of workers, the host itself."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess

import pytest
from clients import connection, join, progress, send, watching
from fleet import Fleet, changed, eventually


async def test_a_changed_nginx_variable_reloads_and_drops_nothing(fleet: Fleet) -> None:
    nginx = fleet.ssh(fleet.edge, "systemctl show --property=MainPID --value nginx")
    async with watching(fleet) as witness:
        output = await asyncio.to_thread(fleet.play, "--tags=nginx", "--extra-vars=nginx_worker_shutdown_timeout=3h")
        assert changed(output) == [
            "selfhost.websocket.nginx : Configure nginx",
            "selfhost.websocket.nginx : Reload nginx",
        ]
        assert "worker_shutdown_timeout 3h" in fleet.ssh(fleet.edge, "cat /etc/nginx/nginx.conf")
        assert not any(client.disconnects for client in witness.clients)
    assert fleet.ssh(fleet.edge, "systemctl show --property=MainPID --value nginx") == nginx, "nginx was restarted"


def api_status(fleet: Fleet, key: str) -> int:
    """The status of the server API at the edge's private address, for a backend on another host."""
    backend = http.client.HTTPConnection(fleet.address(fleet.edge), 9079, timeout=10)
    backend.request("GET", "/v1/stats", headers={"Authorization": f"Bearer {key}"})
    return backend.getresponse().status


async def test_fewer_workers_and_the_server_api_for_another_host(fleet: Fleet) -> None:
    here = fleet.ssh(fleet.edge, "echo $SSH_CLIENT").split()[0]
    settings = json.dumps({"ws_server_instances": 2, "ws_server_api_clients": [here]})

    def play() -> list[str]:
        """The files beside the fleet's lock, while the edge is changed and afterwards."""
        lock = "ls /var/lib/ws-fleet"
        with fleet.playing("site.yml", "--tags=ws_server,nginx", f"--extra-vars={settings}") as run:
            held = [fleet.ssh(fleet.worker_host, lock) for line in run.stdout if " : Configure nginx]" in line]
        assert run.returncode == 0
        return [*held, fleet.ssh(fleet.worker_host, lock)]

    async with watching(fleet):
        assert await asyncio.to_thread(play) == ["lock\n", ""]
    assert fleet.instances() == ["80", "81"]
    assert fleet.ssh(fleet.worker_host, "ls /opt/ws-server/instances").split() == ["80", "81"]
    left = "systemctl list-units --all --plain --no-legend 'ws-server@8[23]*'; ls /etc/systemd/system/*.wants"
    assert "ws-server@82" not in fleet.ssh(fleet.worker_host, left)
    assert ":8082" not in fleet.ssh(fleet.edge, "cat /etc/nginx/nginx.conf")
    assert (api_status(fleet, fleet.api_key), api_status(fleet, "x" * 32)) == (200, 401)
    assert fleet.api("GET", "/v1/stats")[0] == 200, "from the host itself"


async def test_more_workers_and_a_changed_setting_replace_one_at_a_time(fleet: Fleet) -> None:
    """The server API is also opened to a network that this machine is not in.

    The password of Redis changes as well. A worker that is not replaced yet can log in again.
    """
    before = {instance: fleet.pid(instance) for instance in ("80", "81")}
    fewest = len(before)
    redis = fleet.ssh(fleet.redis_host, "systemctl show --property=MainPID --value redis-server")
    earlier = fleet.ssh(fleet.redis_host, "cat /etc/redis/ws-password; rm /etc/redis/ws-password").strip()

    def accepted(password: str) -> bool:
        ping = f"REDISCLI_AUTH={password} redis-cli -s /run/redis/redis-server.sock --user ws PING 2>&1"
        return "PONG" in fleet.ssh(fleet.redis_host, ping, check=False)

    def current() -> str:
        return fleet.ssh(fleet.redis_host, "cat /etc/redis/ws-password", check=False).strip() or "none"

    async def until_both_are_accepted() -> None:
        def both() -> bool:
            return accepted(current()) and accepted(earlier)

        await asyncio.to_thread(eventually, both, 600, "both passwords", every=0.5)

    async def watch() -> None:
        nonlocal fewest
        while True:
            ready = await asyncio.to_thread(lambda: sum(map(fleet.ready, before)))
            fewest = min(fewest, ready)
            await asyncio.sleep(0.2)

    async with watching(fleet):
        counting, trying = asyncio.create_task(watch()), asyncio.create_task(until_both_are_accepted())
        limits = {"ws_server_heartbeat_s": 20, "ws_server_max_rooms_per_connection": 2}
        settings = json.dumps(limits | {"ws_server_api_clients": ["192.0.2.0/24"]})
        await asyncio.to_thread(fleet.play, "--tags=redis,ws_server,nginx", f"--extra-vars={settings}")
        counting.cancel()
        await trying
    assert fleet.instances() == ["80", "81", "82", "83"]
    assert fleet.ssh(fleet.redis_host, "systemctl show --property=MainPID --value redis-server") == redis
    assert (accepted(current()), accepted(earlier)) == (True, False)
    outdated = 'grep -LF "$(grep ^WS_REDIS_PASSWORD= /etc/ws-server/env)" /opt/ws-server/generations/*/env'
    assert fleet.ssh(fleet.worker_host, outdated, check=False) == "", "a rollback could not log in to Redis"
    assert all(fleet.pid(instance) != pid for instance, pid in before.items()), "a worker kept its old settings"
    assert fewest == 1, "both workers were not ready at once, or neither was ever replaced"
    async with connection(fleet, "alice") as alice:
        for room in ("one", "two"):
            await join(alice, room)
        await send(alice, type="join", room="three")
        refused = json.loads(await alice.recv())
        assert (refused["type"], refused["code"]) == ("error", "too_many_rooms")
    assert (api_status(fleet, fleet.api_key), api_status(fleet, "x" * 32)) == (403, 403)
    assert fleet.api("GET", "/v1/stats")[0] == 200, "from the host itself"


def test_the_server_api_is_closed_again(fleet: Fleet) -> None:
    """The edge again matches the inventory, which the edge's own tests need."""
    fleet.play("--tags=nginx")
    with pytest.raises(ConnectionRefusedError):
        api_status(fleet, fleet.api_key)


def test_a_run_applies_the_settings_of_an_interrupted_run(fleet: Fleet) -> None:
    """Redis runs with older settings and users than those in its files."""
    login = 'REDISCLI_AUTH="$(cat /etc/redis/admin-password)" redis-cli -s /run/redis/redis-server.sock --user admin'

    def maxmemory() -> int:
        return int(fleet.ssh(fleet.redis_host, f"{login} CONFIG GET maxmemory").split()[1])

    def connections(age_s: int = 0) -> set[str]:
        """The workers' connections of at least this age."""
        clients = re.findall(
            r"^id=(\d+) .* age=(\d+) .* user=ws ", fleet.ssh(fleet.redis_host, f"{login} CLIENT LIST"), re.MULTILINE
        )
        return {client for client, age in clients if int(age) >= age_s}

    redis = fleet.ssh(fleet.redis_host, "systemctl show --property=MainPID --value redis-server")
    fleet.ssh(fleet.redis_host, f"{login} CONFIG SET maxmemory 400mb; touch /etc/redis/live.conf")
    # An older release may have left the users like this. No connection may end when they are
    # corrected.
    fleet.ssh(fleet.redis_host, "sed -i '/^user admin /s/ &[*] / /' /etc/redis/users.acl")
    fleet.ssh(fleet.redis_host, f"{login} ACL SETUSER admin resetchannels")
    fleet.ssh(fleet.redis_host, "sed -i '/^user exporter /d' /etc/redis/users.acl")
    fleet.ssh(fleet.redis_host, f"{login} ACL DELUSER exporter")
    before = connections(age_s=20)
    assert before
    fleet.play("--tags=redis")
    assert maxmemory() == 512 * 2**20
    assert before <= connections()
    assert re.search(r"^user admin on .* &\* ", fleet.ssh(fleet.redis_host, f"{login} ACL LIST"), re.MULTILINE)
    assert "exporter" in fleet.ssh(fleet.redis_host, f"{login} ACL USERS").split()
    assert fleet.ssh(fleet.redis_host, "systemctl show --property=MainPID --value redis-server") == redis, "a restart"


async def test_the_host_reboots(fleet: Fleet) -> None:
    boot = "cat /proc/1/stat | cut -d' ' -f22"
    before = fleet.ssh(fleet.worker_host, boot)

    def rebooted() -> bool:
        try:
            return fleet.ssh(fleet.worker_host, boot) != before
        except (AssertionError, subprocess.TimeoutExpired):
            return False

    async with watching(fleet) as witness:
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, "systemctl reboot", False)
        await asyncio.to_thread(eventually, rebooted, 120, "the host is up again")
        await asyncio.to_thread(
            eventually, lambda: fleet.instances() == ["80", "81", "82", "83"], 120, "all workers up"
        )
        await progress(witness, 50)
