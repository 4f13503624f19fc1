# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Hosts in URLs."""

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.filter.url_host import FilterModule, url_host


@pytest.mark.parametrize(
    ("host", "written"),
    [
        pytest.param("ws.example.org", "ws.example.org", id="name"),
        pytest.param("10.0.0.1", "10.0.0.1", id="IPv4"),
        pytest.param("fd00::1", "[fd00::1]", id="IPv6"),
        pytest.param("::ffff:10.0.0.1", "[::ffff:10.0.0.1]", id="IPv4 in IPv6"),
        pytest.param("[fd00::1]", "[fd00::1]", id="in brackets"),
        pytest.param("", "", id="empty"),
    ],
)
def test_only_an_ipv6_address_gets_brackets(host, written):
    assert url_host(host) == written


def test_ansible_finds_it():
    assert FilterModule().filters() == {"url_host": url_host}
