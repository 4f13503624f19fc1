# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""One user attacks a fleet through its edges, with an ordinary token. The others chat on.

Each attack lasts two seconds; `TENANT_S=60` is the long trial.
"""

from __future__ import annotations

import os
from asyncio import to_thread

import pytest
from fleet import Fleet
from hostile import tenant
from hostile.chat import Chat, attacked
from support.worker import Client
from websockets.asyncio.client import connect

_SECONDS = float(os.environ.get("TENANT_S", "2"))
# What a worker may grow by, and what Redis may use: the logs of the attack stay.
_GROWTH_BYTES = 64 * 2**20
_REDIS_SHARE = 0.9


def processes(fleet: Fleet) -> dict[tuple[str, str], int]:
    return {
        (host, instance): fleet.pid(instance, host) for host in fleet.worker_hosts for instance in fleet.instances(host)
    }


def resident(fleet: Fleet) -> dict[str, int]:
    """The bytes of all workers of each host."""
    show = "ps --no-headers -o rss --pid $(systemctl show --property=MainPID --value 'ws-server@*' | xargs | tr ' ' ,)"
    return {host: 1024 * sum(map(int, fleet.ssh(host, show).split())) for host in fleet.worker_hosts}


@pytest.mark.hosts
@pytest.mark.timeout(20 * _SECONDS + 240)
async def test_one_user_cannot_hurt_the_others(fleet: Fleet) -> None:
    urls = [fleet.url_of(edge) for edge in fleet.edges]

    async def member(n: int) -> Client:
        headers = {"Authorization": f"Bearer {fleet.token(f'user{n}')}"}
        url = urls[n % len(urls)]
        client = Client(await connect(url, ssl=fleet.trust, additional_headers=headers, proxy=None))
        await client.event("welcome")
        return client

    chat = Chat(member)
    await chat.start(max(_SECONDS, 3))
    before, memory = await to_thread(processes, fleet), await to_thread(resident, fleet)
    for name in tenant.NAMES:
        answers = await attacked(name, _SECONDS, tenant.Target(urls, fleet.jwt_secret, fleet.ca_file))
        p99 = chat.judge()
        grown = max(after - memory[host] for host, after in (await to_thread(resident, fleet)).items())
        used = await to_thread(fleet.metric, "ws_broker_memory_ratio") / len(before)
        print(
            f"{name:23} {p99}, workers of a host +{grown / 2**20:.1f} MiB, Redis {used:.0%} full, {answers}", flush=True
        )
        assert grown < _GROWTH_BYTES, name
        assert used < _REDIS_SHARE, name
        assert await to_thread(processes, fleet) == before, name
    await chat.stop()
