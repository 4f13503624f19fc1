# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance
from ansible_collections.selfhost.websocket.plugins.module_utils._instance import Instance


def test_paths_and_names_of_a_worker(host):
    host.link("81", generation="0.1.0+8c1f0a5be2d4-5f0c2a91")
    instance = Instance("81")
    assert instance.unit == "ws-server@81.service"
    assert instance.socket == f"{host.run}/81/control.sock"
    assert instance.exists
    assert instance.generation == "0.1.0+8c1f0a5be2d4-5f0c2a91"
    assert instance.version == "0.1.0+8c1f0a5be2d4"


def test_a_worker_that_does_not_exist(host):
    instance = Instance("81")
    assert (instance.exists, instance.generation, instance.version) == (False, None, None)
    assert instance.url == "http://127.0.0.1:8081"


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ('WS_LISTEN_ADDRESS="10.0.0.11"\n', "http://10.0.0.11:8080"),
        ('WS_LISTEN_ADDRESS="127.0.0.1,10.0.0.11"\n', "http://127.0.0.1:8080"),
        ("# WS_LISTEN_ADDRESS=1.2.3.4\nPORT=1\nWS_LISTEN_ADDRESS=10.0.0.11\n", "http://10.0.0.11:8080"),
        ("WS_LISTEN_ADDRESS='fd00::11'\n", "http://[fd00::11]:8080"),
        ("WS_LISTEN_ADDRESS=10.0.0.1\nWS_LISTEN_ADDRESS=10.0.0.2\n", "http://10.0.0.2:8080"),  # as systemd reads it
        ("WS_API_LISTEN_ADDRESS=10.0.0.11\n", "http://127.0.0.1:8080"),
        ("", "http://127.0.0.1:8080"),
    ],
)
def test_the_url_of_a_worker(host, env, url):
    host.link(env=env)
    assert Instance("80").url == url


def test_all_of_a_host_in_order(host):
    assert _instance.names() == []
    for name in ("83", "80", "99"):
        host.link(name)
    host.home.joinpath("instances", "lost+found").mkdir()
    assert _instance.names() == ["80", "83", "99"]


def test_a_host_without_the_service(monkeypatch, tmp_path):
    monkeypatch.setattr(_instance, "HOME", tmp_path / "nothing")
    assert _instance.names() == []


@pytest.mark.parametrize(
    ("name", "is_name"), [("80", True), ("8", False), ("800", False), ("٨٠", False), ("80\n", False)]
)
def test_names(name, is_name):
    assert _instance.is_name(name) is is_name
