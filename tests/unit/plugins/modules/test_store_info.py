# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""store_info on a host whose workers run, or were stopped."""

from __future__ import annotations

from hosts import run

from ansible_collections.selfhost.websocket.plugins.modules import store_info

LOCAL = (
    'WS_REDIS_URL="unix:///run/redis/redis-server.sock"\nWS_POSTGRES_DSN="postgresql://app@/ws?host=/run/postgresql"\n'
)
FAR = 'WS_REDIS_URL="redis://10.0.0.3:6379/0"\nWS_POSTGRES_DSN="postgresql://app:hush@10.0.0.3:5432/ws"\n'
HERE, THERE = {"address": "", "machine": ""}, {"address": "10.0.0.3", "machine": ""}


def test_the_workers_that_run(host):
    host.link("80", "1.0+abc-12345678", LOCAL)
    host.link("81", "1.0+abc-87654321", FAR)
    host.link("82", "1.0+abc-12345678")
    host.link("83", "1.0+abc-12345678")
    host.set_ended_process("80", ActiveState="active")
    host.set_ended_process("81", ActiveState="activating")
    host.set_ended_process("82", ActiveState="failed")
    result = run(store_info)
    assert not result["failed"], result
    assert result["workers"] == [
        {"instance": "80", "redis": HERE, "postgres": HERE},
        {"instance": "81", "redis": THERE, "postgres": THERE},
    ]
    assert "hush" not in str(result)


def test_a_host_without_workers(host):
    result = run(store_info)
    assert (result["failed"], result["workers"], result["generations"]) == (False, [], {})


def test_generations(host):
    host.link("80", "1.0+abc-12345678", FAR)
    result = run(store_info, generations=["1.0+abc-12345678", "1.0+abc-gone"])
    assert result["generations"] == {
        "1.0+abc-12345678": {"redis": THERE, "postgres": THERE},
        "1.0+abc-gone": {"redis": None, "postgres": None},
    }
