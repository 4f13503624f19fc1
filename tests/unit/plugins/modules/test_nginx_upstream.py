# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The module on a real nginx, in this process and once through Ansible."""

from __future__ import annotations

from pathlib import Path

import pytest
from edge import Edge
from hosts import run

from ansible_collections.selfhost.websocket.plugins.modules import nginx_upstream


@pytest.fixture
def upstream(edge: Edge):
    def change(check=False, **options):
        return run(nginx_upstream, check, path=str(edge.path), **options)

    return change


def states(servers: list[dict]) -> dict[str, list[str]]:
    assert all(server["state"] == ("down" if server["by"] else "up") for server in servers)
    return {server["server"]: server["by"] for server in servers}


UP = {"127.0.0.1:7": [], "127.0.0.2:7": [], "127.0.0.2:9": []}


def test_as_ansible_runs_it(module, edge, tmp_path: Path):
    would = module("nginx_upstream", path=str(edge.path), host="127.0.0.2", state="down", by="ops", check=True)
    assert (would["changed"], would["reloaded"]) == (True, False)
    done = module("nginx_upstream", path=str(edge.path), host="127.0.0.2", state="down", by="ops")
    assert (done["changed"], done["reloaded"], states(done["before"])) == (True, True, UP)
    assert done["diff"] == would["diff"]
    assert done["diff"]["after"] == edge.path.read_text()
    missing = module("nginx_upstream", path=str(tmp_path / "none"), host="127.0.0.1", state="down")
    assert missing["failed"]
    assert "No such file" in missing["msg"]


def test_a_whole_host_out_and_in(upstream, edge):
    away = UP | {"127.0.0.2:7": ["ops"], "127.0.0.2:9": ["ops"]}

    would = upstream(host="127.0.0.2", state="down", by="ops", check=True)
    assert (would["changed"], would["reloaded"], states(would["after"])) == (True, False, away)
    assert "down" not in edge.path.read_text()

    done = upstream(host="127.0.0.2", state="down", by="ops")
    assert (done["changed"], done["reloaded"]) == (True, True)
    assert (states(done["before"]), states(done["after"])) == (UP, away)
    assert done["diff"] == would["diff"]
    assert done["diff"]["after"] == edge.path.read_text()
    assert done["diff"]["after"].count("down; # down by: ops") == 2

    again = upstream(host="127.0.0.2", state="down", by="ops")
    assert (again["changed"], again["reloaded"], states(again["after"])) == (False, False, away)

    others = upstream(host="127.0.0.2", state="up")
    assert (others["changed"], states(others["after"])) == (False, away), "what ops took out is not brought back"

    back = upstream(host="127.0.0.2", state="up", by="ops")
    assert (back["changed"], states(back["after"])) == (True, UP)


def test_one_server_removed(upstream, edge):
    gone = upstream(server=["127.0.0.2:7"], state="absent")
    assert (gone["changed"], list(states(gone["after"]))) == (True, ["127.0.0.1:7", "127.0.0.2:9"])
    assert upstream(server=["127.0.0.2:7"], state="absent")["changed"] is False


def test_the_last_server_stays_unless_forced(upstream, edge):
    all_servers = {"server": list(UP), "state": "down"}
    before = edge.path.read_text()
    refused = upstream(**all_servers)
    assert refused["failed"]
    assert "no server of the upstream ws would be left up (set force: true" in refused["msg"]
    assert edge.path.read_text() == before
    assert upstream(**all_servers, force=True)["changed"]
    none = upstream(server=list(UP), state="absent", force=True)
    assert "would have none left" in none["msg"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"server": ["127.0.0.9:7"], "state": "down"},
            "127.0.0.9:7: not in the upstream ws, whose servers are 127.0.0.1:7,",
        ),
        ({"host": "127.0.0.9", "state": "up"}, "127.0.0.9: not in the upstream ws"),
        ({"host": "127.0.0.1", "state": "down", "by": "a, b"}, "by is 'a, b'"),
        ({"host": "127.0.0.1", "state": "down", "upstream": "api"}, "there is no upstream api"),
        ({"state": "down"}, "one of the following is required: server, host"),
    ],
)
def test_impossible_changes_are_refused(upstream, edge, options, why):
    before = edge.path.read_text()
    result = upstream(**options)
    assert result["failed"]
    assert why in result["msg"]
    assert edge.path.read_text() == before


def test_a_missing_file(tmp_path: Path):
    result = run(nginx_upstream, path=str(tmp_path / "nginx.conf"), host="127.0.0.1", state="down")
    assert "No such file" in result["msg"]
