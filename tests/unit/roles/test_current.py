# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The files with which each unit's process is compared. test_unit_age.py tests the result."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment
from program import ROOT

VENDORS = {"vendor_packages_name": "grafana", "vendor_packages_unit": "grafana-server", "vendor_packages_files": ["/x"]}
REDIS = {"_redis_unit": "redis-server.service", "_redis_conf": "/etc/redis/redis.conf"}
EXPORTER = {"_exporters_name": "redis", "_exporters_unit": "prometheus-redis-exporter.service"}


def files(path: str, variables: dict[str, Any]) -> tuple[str, list[str]]:
    """The unit of a task file, and the files that its process must have read."""
    tasks = yaml.safe_load((ROOT / f"roles/{path}.yml").read_text())
    (options,) = [
        task["selfhost.websocket.systemd_current"] for task in tasks if "selfhost.websocket.systemd_current" in task
    ]
    environment = NativeEnvironment()

    def rendered(value: Any) -> Any:
        return environment.from_string(value).render(variables)

    found = options["files"]
    return rendered(options["name"]), [rendered(one) for one in found] if isinstance(found, list) else rendered(found)


@pytest.mark.parametrize(
    ("path", "variables", "besides"),
    [
        pytest.param("exporters/tasks/exporter", EXPORTER, ["/etc/default/ws-redis-exporter"], id="exporters"),
        pytest.param(
            "prometheus/tasks/start", {"item": {"name": "prometheus"}}, ["/etc/default/prometheus"], id="prometheus"
        ),
        pytest.param(
            "vendor_packages/tasks/start", VENDORS, ["/var/lib/dpkg/info/grafana.list", "/x"], id="vendor_packages"
        ),
        pytest.param("redis/tasks/main", REDIS, ["/etc/redis/redis.conf", "/etc/redis/admin-password"], id="redis"),
    ],
)
def test_a_process_is_compared_with_its_drop_in_and_settings(path, variables, besides):
    unit, known = files(path, variables)
    assert sorted(known) == sorted([f"/etc/systemd/system/{unit}.d/ws.conf", *besides])


def test_the_watcher_is_compared_with_its_program_and_unit():
    unit, known = files("nginx/tasks/watcher", {"_nginx_watcher": "/w.pyz"})
    assert known == ["/w.pyz", f"/etc/systemd/system/{unit}"]
