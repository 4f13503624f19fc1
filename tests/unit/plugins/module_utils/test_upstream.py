# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._upstream import (
    NAME,
    Server,
    UpstreamError,
    marked,
    servers,
    without,
)

CONFIGURATION = """\
http {
    # upstream ws {
    upstream api {
        server 10.0.0.1:9080 max_fails=0;
    }
    upstream ws {
        zone ws 256k;
        # server 10.0.0.9:8080;
        server 10.0.0.1:8080 max_fails=0;
        server 10.0.0.2:8080 max_fails=0 down; # down by: maintenance, watcher
        server [fd00::3]:8080;
        keepalive 64;
    }
    server {
        listen 80;
    }
}
"""


def block(*lines: str) -> str:
    return "\n".join(["upstream ws {", *lines, "}", ""])


def test_the_servers_of_one_upstream():
    assert servers(CONFIGURATION, "ws") == [
        Server("10.0.0.1:8080"),
        Server("10.0.0.2:8080", ("maintenance", "watcher")),
        Server("[fd00::3]:8080"),
    ]
    assert servers(CONFIGURATION, "api") == [Server("10.0.0.1:9080")]


def test_hosts():
    assert [server.host for server in servers(CONFIGURATION, "ws")] == ["10.0.0.1", "10.0.0.2", "fd00::3"]


def test_a_mark_changes_only_the_servers_line():
    out = marked(CONFIGURATION, "ws", "me", {"10.0.0.1:8080"})
    assert out == CONFIGURATION.replace("10.0.0.1:8080 max_fails=0;", "10.0.0.1:8080 max_fails=0 down; # down by: me")
    assert marked(out, "ws", "me", set()) == CONFIGURATION


def test_a_server_stays_out_as_long_as_its_mark_has_an_owner():
    one = marked(CONFIGURATION, "ws", "watcher", set())
    assert servers(one, "ws")[1] == Server("10.0.0.2:8080", ("maintenance",))
    none = marked(one, "ws", "maintenance", set())
    assert servers(none, "ws")[1] == Server("10.0.0.2:8080")
    assert "        server 10.0.0.2:8080 max_fails=0;\n" in none


def test_marks_are_set_exactly():
    out = marked(CONFIGURATION, "ws", "watcher", {"[fd00::3]:8080"})
    assert [server.down_by for server in servers(out, "ws")] == [(), ("maintenance",), ("watcher",)]


def test_the_same_change_again_changes_nothing():
    assert marked(CONFIGURATION, "ws", "watcher", {"10.0.0.2:8080"}) == CONFIGURATION
    assert without(CONFIGURATION, "ws", {"10.0.0.7:8080"}) == CONFIGURATION


def test_a_server_removed():
    assert without(CONFIGURATION, "ws", {"10.0.0.2:8080"}) == CONFIGURATION.replace(
        "        server 10.0.0.2:8080 max_fails=0 down; # down by: maintenance, watcher\n", ""
    )


def test_down_without_a_name_has_an_unknown_owner():
    by_hand = block("    server a:1 down max_fails=0;", "    server b:1;")
    assert servers(by_hand, "ws")[0] == Server("a:1", ("unknown",))
    both = marked(by_hand, "ws", "watcher", {"a:1"})
    assert "    server a:1 max_fails=0 down; # down by: unknown, watcher\n" in both
    assert servers(marked(both, "ws", "watcher", set()), "ws")[0].down_by == ("unknown",)


def test_a_mark_without_down_is_ignored():
    assert servers(block("    server a:1; # down by: me"), "ws") == [Server("a:1")]


@pytest.mark.parametrize(
    "line",
    ["server a:1; server b:1;", "server a:1", "server a:1; # rack 3", "server a:1 down # down by: me", "server;"],
)
def test_a_line_that_might_be_misread_is_refused(line):
    with pytest.raises(UpstreamError, match="cannot read"):
        servers(block(line), "ws")


@pytest.mark.parametrize(
    ("text", "why"),
    [("http {\n}\n", "no upstream ws"), ("upstream ws {\n  server a:1;\n", "no end"), ("", "no upstream")],
)
def test_a_configuration_without_the_upstream_is_refused(text, why):
    with pytest.raises(UpstreamError, match=why):
        servers(text, "ws")


@pytest.mark.parametrize(
    ("name", "good"),
    [("watcher", True), ("ops@example.org", True), ("a, b", False), ("a\nb", False), ("", False), ("#", False)],
)
def test_names(name, good):
    assert bool(NAME.fullmatch(name)) == good
