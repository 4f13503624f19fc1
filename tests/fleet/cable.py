# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A place on the lab's network that can be disconnected silently, without a closing packet."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Cable:
    """A network namespace on a lab's bridge.

    `run` is the start of a command line that runs in it.
    """

    def __init__(self, bridge: str) -> None:
        # The name comes from the bridge, so that the next run removes the remains of a killed run.
        self._name = f"{bridge}-cut"
        self.run = ["ip", "netns", "exec", self._name]
        self.clear()
        link = _ip("link", "show", bridge)
        own = next(address for address in _ip("address", "show", bridge)["addr_info"] if address["family"] == "inet")
        net = ipaddress.IPv4Interface(f"{own['local']}/{own['prefixlen']}").network
        mtu = str(link["mtu"])
        _run("netns", "add", self._name)
        veth = ["link", "add", self._name, "mtu", mtu, "type", "veth"]
        _run(*veth, "peer", "name", "eth0", "mtu", mtu, "netns", self._name)
        _run("link", "set", self._name, "master", bridge)
        self.reconnect()
        _run("-netns", self._name, "link", "set", "eth0", "up")
        # The lab numbers its hosts from the other end.
        _run("-netns", self._name, "address", "add", f"{net[-2]}/{net.prefixlen}", "dev", "eth0")

    def cut(self) -> None:
        _run("link", "set", self._name, "down")

    def reconnect(self) -> None:
        _run("link", "set", self._name, "up")

    def clear(self) -> None:
        subprocess.run(["ip", "link", "delete", self._name], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "delete", self._name], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def cable(to: str) -> Iterator[Cable]:
    """A cable on the network over which this machine reaches the address `to`."""
    one = Cable(_ip("route", "get", to)["dev"])
    try:
        yield one
    finally:
        one.clear()


@contextmanager
def unplugged(address: str) -> Iterator[None]:
    """Disconnect the lab host with this address from every network."""
    cable = f"{_ip('route', 'get', address)['dev']}-{address.rpartition('.')[2]}"
    _run("link", "set", cable, "down")
    try:
        yield
    finally:
        _run("link", "set", cable, "up")


def _run(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _ip(*arguments: str) -> Any:
    return json.loads(subprocess.check_output(["ip", "-json", *arguments]))[0]
