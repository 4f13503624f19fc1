# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""A run's network: a bridge with a /24 of the pool, a namespace per host, and masquerading."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path

from . import state
from .shell import LabError, run, succeeds
from .state import Host, Run

POOL = os.environ.get("WS_LAB_POOL", "10.213.0.0/16")
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
FORWARD_BEFORE = state.STATE / ".ip_forward"


def subnet(one: Run) -> ipaddress.IPv4Network:
    return _subnet(one.subnet)


def _subnet(number: int) -> ipaddress.IPv4Network:
    return list(ipaddress.IPv4Network(POOL).subnets(new_prefix=24))[number]


def address(one: Run, host: Host) -> str:
    return str(subnet(one)[host.number])


def namespace(one: Run, host: Host) -> str:
    return f"ws-lab-{one.name}-{host.name}"


def free_subnets() -> dict[str, int]:
    """Return each unused /24 of the pool that this machine does not route, with its number."""
    taken = {other.subnet for other in state.all_runs()}
    routes = [
        ipaddress.IPv4Network(route["dst"])
        for route in json.loads(run(["ip", "-4", "-json", "route", "show", "table", "all"]))
        if route["dst"] != "default"
    ]
    return {
        str(candidate): number
        for number, candidate in enumerate(ipaddress.IPv4Network(POOL).subnets(new_prefix=24))
        if number not in taken and not any(candidate.overlaps(route) for route in routes)
    }


def choose_subnet(one: Run, kept: set[str]) -> None:
    """Take the first free /24, if possible outside `kept`. Call with the lock of all runs held."""
    free = free_subnets()
    if not free:
        raise LabError(f"no free /24 is left in {POOL}; set WS_LAB_POOL to another private range")
    one.subnet = min(free.values(), key=lambda number: (str(_subnet(number)) in kept, number))


def connect(one: Run) -> None:
    """Create the run's bridge and let its hosts reach other networks."""
    bridge, net = _bridge(one), subnet(one)
    if not succeeds(["ip", "link", "show", bridge]):
        run(["ip", "link", "add", bridge, "address", _mac(str(net[1])), "mtu", _mtu(), "type", "bridge"])
    run(["ip", "link", "set", bridge, "alias", f"ws-lab {one.name}", "up"])
    run(["ip", "address", "replace", f"{net[1]}/24", "dev", bridge])
    table = _table(one)
    run(
        ["nft", "-f", "-"],
        stdin=f"""
            table ip {table}
            delete table ip {table}
            table ip {table} {{
                chain postrouting {{
                    type nat hook postrouting priority srcnat
                    ip saddr {net} oifname != "{bridge}" masquerade
                }}
            }}
        """,
    )
    with state.locked(".all"):
        if not FORWARD_BEFORE.exists():
            FORWARD_BEFORE.write_text(FORWARD.read_text())
        FORWARD.write_text("1\n")


def disconnect(one: Run) -> None:
    """Undo connect(). With the last run, also restore the machine's forwarding."""
    succeeds(["ip", "link", "delete", _bridge(one)])
    succeeds(["nft", "delete", "table", "ip", _table(one)])
    with state.locked(".all"):
        if not [other for other in state.all_runs() if other.name != one.name] and FORWARD_BEFORE.exists():
            FORWARD.write_text(FORWARD_BEFORE.read_text())
            FORWARD_BEFORE.unlink()


def plug_in(one: Run, host: Host) -> None:
    """Create a host's namespace and its link to the bridge.

    The hardware address follows from the IP address. A host that is created again on an address is
    reachable at once, because its neighbours already have its hardware address.
    """
    name, cable, bridge, net = namespace(one, host), f"{_bridge(one)}-{host.number}", _bridge(one), subnet(one)
    unplug(one, host)
    own = address(one, host)
    run(["ip", "netns", "add", name])
    link = ["ip", "link", "add", cable, "mtu", _mtu(), "type", "veth"]
    run([*link, "peer", "name", "eth0", "address", _mac(own), "mtu", _mtu(), "netns", name])
    run(["ip", "link", "set", cable, "master", bridge, "up"])
    inside = ["ip", "-netns", name]
    run([*inside, "link", "set", "lo", "up"])
    run([*inside, "link", "set", "eth0", "up"])
    run([*inside, "address", "add", f"{own}/24", "dev", "eth0"])
    run([*inside, "route", "add", "default", "via", str(net[1])])


def unplug(one: Run, host: Host) -> None:
    succeeds(["ip", "link", "delete", f"{_bridge(one)}-{host.number}"])
    name = namespace(one, host)
    if Path("/run/netns", name).exists() and not succeeds(["ip", "netns", "delete", name]):
        Path("/run/netns", name).unlink(missing_ok=True)  # the run was killed before it mounted the file


def _bridge(one: Run) -> str:
    return f"wslab{one.subnet}"


def _table(one: Run) -> str:
    return "ws_lab_" + one.name.replace("-", "_")


def _mac(own: str) -> str:
    return "02:00:" + ":".join(f"{int(octet):02x}" for octet in own.split("."))


def _mtu() -> str:
    """The MTU of the default route, which may be smaller than Ethernet's, for all hosts."""
    defaults = json.loads(run(["ip", "-4", "-json", "route", "show", "default"]))
    ways = [json.loads(run(["ip", "-json", "link", "show", route["dev"]]))[0]["mtu"] for route in defaults]
    return str(min([1500, *ways]))
