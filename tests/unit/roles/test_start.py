# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A process that does not know its newest settings is restarted, also one that began before the role had written any."""

from __future__ import annotations

from types import SimpleNamespace

import jinja2
import pytest
import yaml
from program import ROOT


@pytest.mark.parametrize("path", ["exporters/tasks/exporter", "prometheus/tasks/start", "vendor_packages/tasks/start"])
@pytest.mark.parametrize(
    ("found", "state"),
    [
        ({"rc": 0, "stdout": ""}, "started"),
        ({"rc": 0, "stdout": "ws.conf"}, "restarted"),
        ({"rc": 1, "stdout": ""}, "restarted"),
    ],
)
def test_what_does_not_know_its_settings_is_restarted(path, found, state):
    tasks = yaml.safe_load((ROOT / f"roles/{path}.yml").read_text())
    (start,) = [task for task in tasks if "started" in task.get("ansible.builtin.systemd_service", {}).get("state", "")]
    # It is registered under the name of its role, or one of a loop.
    results = dict.fromkeys(["item", "__exporters_newer", "__vendor_packages_newer"], SimpleNamespace(**found))
    assert jinja2.Template(start["ansible.builtin.systemd_service"]["state"]).render(results) == state


def test_a_program_that_was_installed_since_is_started():
    look = yaml.safe_load((ROOT / "roles/vendor_packages/tasks/start.yml").read_text())[0]
    variables = {
        "vendor_packages_name": "grafana",
        "vendor_packages_unit": "grafana-server",
        "vendor_packages_settings": [],
    }
    local = {name: jinja2.Template(value).render(variables) for name, value in look["vars"].items()}
    asked = jinja2.Template(look["ansible.builtin.command"]["argv"]).render(variables | local)
    assert "'/var/lib/dpkg/info/grafana.list'" in asked
