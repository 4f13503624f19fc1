# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Reads and changes the servers of an upstream in the text of nginx's configuration.

If a server is out, its line has a mark that names the owners of the mark:

server 10.0.0.3:8080 max_fails=0 down; # down by: maintenance, watcher

The server is out as long as the mark has an owner. Each owner removes only its own name.

The edge watcher shares this file outside of Ansible, so this file imports only the standard
library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

# The owner of a "down" that was written by hand, without a name.
UNKNOWN = "unknown"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")

_SERVER = re.compile(
    r"^(?P<head>\s*server\s+(?P<address>[^\s;#]+))(?P<parameters>[^;#]*);(\s*# down by:(?P<by>.*)|\s*)$"
)


class UpstreamError(Exception):
    """A change is impossible; the text names the cause."""


@dataclass(frozen=True)
class Server:
    """A server.

    `address` is HOST:PORT. `down_by` has the sorted owners of its mark; without an owner, the
    server is up.
    """

    address: str
    down_by: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The address without its port, and without the brackets of IPv6."""
        return self.address.rpartition(":")[0].strip("[]")


def servers(configuration: str, upstream: str) -> list[Server]:
    """Return the servers of an upstream, in their order. Raises UpstreamError."""
    return [_server(line) for _index, line in _found(configuration.splitlines(), upstream)]


def marked(configuration: str, upstream: str, by: str, out: Collection[str]) -> str:
    """Mark exactly these servers as down by `by`.

    Marks of other owners stay. Raises UpstreamError.
    """

    def change(server: Server) -> Server:
        others = {name for name in server.down_by if name != by}
        return replace(server, down_by=tuple(sorted(others | {by} if server.address in out else others)))

    return _changed(configuration, upstream, change)


def without(configuration: str, upstream: str, absent: Collection[str]) -> str:
    """Remove the servers with these addresses from the upstream. Raises UpstreamError."""
    return _changed(configuration, upstream, lambda server: None if server.address in absent else server)


def _changed(configuration: str, upstream: str, change: Callable[[Server], Server | None]) -> str:
    lines = configuration.splitlines(keepends=True)
    for index, line in _found(lines, upstream):
        before = _server(line)
        after = change(before)
        if after is None:
            lines[index] = ""
        elif after != before:
            lines[index] = _rewritten(line, after)
    return "".join(lines)


def _found(lines: list[str], upstream: str) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield the lines of the servers, with their numbers.

    A line that cannot be parsed is an error, because it could contain another server.
    """
    begin = re.compile(rf"\s*upstream\s+{re.escape(upstream)}\s*{{\s*(#.*)?$")
    inside = False
    for index, line in enumerate(lines):
        if not inside:
            inside = bool(begin.match(line))
        elif line.strip().startswith("}"):
            return
        elif re.match(r"\s*server\b", line):
            match = _SERVER.match(line)
            if match is None:
                raise UpstreamError(f"cannot read {line.strip()!r}: one server, its parameters, and no other comment")
            yield index, match
    raise UpstreamError(f"the upstream {upstream} has no end" if inside else f"there is no upstream {upstream}")


def _server(line: re.Match[str]) -> Server:
    if "down" not in line["parameters"].split():
        return Server(line["address"])
    names = {name.strip() for name in (line["by"] or "").split(",")} - {""}
    return Server(line["address"], tuple(sorted(names or {UNKNOWN})))


def _rewritten(line: re.Match[str], server: Server) -> str:
    parameters = "".join(f" {word}" for word in line["parameters"].split() if word != "down")
    mark = f" down; # down by: {', '.join(server.down_by)}" if server.down_by else ";"
    return f"{line['head']}{parameters}{mark}\n"
