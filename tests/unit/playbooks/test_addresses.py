# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Grafana asks Prometheus where it listens; workers and Prometheus trust the authority that an edge names."""

from __future__ import annotations

import jinja2
import pytest
import yaml
from program import ROOT

from ansible_collections.selfhost.websocket.plugins.filter.url_host import url_host

FLEET = yaml.safe_load((ROOT / "playbooks/vars/fleet.yml").read_text())
ENVIRONMENT = jinja2.Environment()
ENVIRONMENT.filters["selfhost.websocket.url_host"] = url_host
NAMES = ["_fleet_prometheus_address", "_fleet_prometheus_url", "grafana_prometheus_url"]


@pytest.mark.parametrize(
    ("inventory", "url"),
    [
        ({}, "http://127.0.0.1:9090"),
        ({"prometheus_listen_address": "10.0.0.1"}, "http://10.0.0.1:9090"),
        ({"prometheus_listen_address": "fd00::1"}, "http://[fd00::1]:9090"),
        (
            {"prometheus_listen_address": "10.0.0.1", "grafana_prometheus_url": "http://10.0.0.9:9090"},
            "http://10.0.0.9:9090",
        ),
    ],
)
def test_grafana_asks_prometheus_where_it_listens(inventory, url):
    variables = {"inventory_hostname": "one", "hostvars": {"one": inventory}}
    for name in NAMES:
        variables[name] = ENVIRONMENT.from_string(FLEET[name]).render(variables)
    assert variables["grafana_prometheus_url"] == url


@pytest.mark.parametrize(
    ("inventory", "own"),
    [
        ({}, True),
        ({"nginx_tls_mode": "files"}, False),
        ({"nginx_tls_mode": "files", "nginx_tls_ca": ""}, False),
        ({"nginx_tls_mode": "files", "nginx_tls_ca": "ca.pem"}, True),
    ],
)
def test_an_edge_with_an_authority_that_hosts_do_not_know(inventory, own):
    edge = inventory | {"nginx_domain": "ws.example.org", "ws_server_private_address": "10.0.0.1"}
    variables = {
        "inventory_hostname": "one",
        "hostvars": {"one": edge},
        "groups": {"edges": ["one"]},
        "ws_edge_group": "edges",
    }
    template = ENVIRONMENT.from_string(FLEET["ws_server_edges"])
    rendered = template.render(variables | {"ws_server_listen_address": "127.0.0.1"})
    (told,) = yaml.safe_load(rendered)
    assert told["own_authority"] is own
