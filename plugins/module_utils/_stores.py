# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Redis and the Postgres in the settings of a worker's generation, and the host of each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

NAMES = ("redis", "postgres")
TITLES = {"redis": "Redis", "postgres": "Postgres"}
_SETTINGS = {"redis": "WS_REDIS_URL", "postgres": "WS_POSTGRES_DSN"}
_LOOPBACK = ("localhost", "::1")


@dataclasses.dataclass(frozen=True)
class Store:
    """A store. `address`: empty on the worker's own host. `machine`: the machine ID of its host, empty if unknown."""

    address: str
    machine: str

    def as_dict(self) -> dict[str, str]:
        """Returns the store as a module returns it."""
        return {"address": self.address, "machine": self.machine}


@dataclasses.dataclass(frozen=True)
class Host:
    """A host of the inventory, as its facts describe it. `reached`: the name or address at which Ansible reaches it."""

    addresses: Collection[str]
    machine: str
    reached: str = ""


def parse(env: str) -> dict[str, Store]:
    """Reads the settings of a generation. No secret leaves this function."""
    found = {}
    for name in NAMES:
        value = re.findall(rf'^{_SETTINGS[name]}="?([^"\n]*)"?$', env, re.MULTILINE)
        machine = re.findall(rf"^# {TITLES[name]} runs on the machine ([0-9a-f]+)$", env, re.MULTILINE)
        if value:
            address = urlsplit(value[-1]).hostname or ""
            is_local = address.startswith("127.") or address in _LOOPBACK
            found[name] = Store("" if is_local else address, machine[-1] if machine else "")
    return found


def host_of(store: Store, worker_host: str, hosts: Mapping[str, Host], wanted: str) -> str | None:
    """Names the host that has a store, or None if the inventory does not have that host.

    An address decides before a machine ID, because copies of a machine share the ID. The ID identifies the wanted host
    under a new address.
    """
    if not store.address:
        return worker_host
    order = [wanted, *(name for name in hosts if name != wanted)]
    for name in order:
        if name in hosts and store.address in [*hosts[name].addresses, hosts[name].reached]:
            return name
    same = [name for name in order if store.machine and name in hosts and store.machine == hosts[name].machine]
    return same[0] if len(same) == 1 else None


def changed(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Names the stores that differ between the settings of two generations of one host, as store_info describes them.

    A store on the same machine under another address is the same store.
    """
    return [name for name in NAMES if now.get(name) and then.get(name) and not _is_same(now[name], then[name])]


def _is_same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    if one["machine"] and other["machine"]:
        return one["machine"] == other["machine"]
    return one["address"] == other["address"]


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A store that workers use on another host than the inventory names.

    `host`: None if no host of the inventory is known to have the address. `candidates`: hosts without a known address, one of
    which may have the store.
    """

    name: str
    host: str | None
    address: str
    users: tuple[str, ...]
    candidates: tuple[str, ...] = ()


def elsewhere(
    workers: Mapping[str, Collection[Mapping[str, Any]]], hosts: Mapping[str, Host], wanted: Mapping[str, str]
) -> list[Elsewhere]:
    """Finds the stores on another host than the inventory names.

    `workers`: worker host -> the workers that store_info returns. `wanted`: store -> its host in the inventory.
    """
    users: dict[tuple[str, str | None, str], list[str]] = {}
    for worker_host, found in workers.items():
        for worker in found:
            for name in NAMES:
                if worker.get(name) is None:
                    continue
                store = Store(worker[name]["address"], worker[name]["machine"])
                host = host_of(store, worker_host, hosts, wanted[name])
                if host != wanted[name]:
                    # The worker on the store's own host uses a socket: one entry for both.
                    place = (name, host, "" if host else store.address)
                    users.setdefault(place, [])
                    if worker_host not in users[place]:
                        users[place].append(worker_host)
    unknown = tuple(name for name, host in hosts.items() if not host.addresses)
    return [
        Elsewhere(name, host, address, tuple(found), () if host else unknown)
        for (name, host, address), found in users.items()
    ]


def is_copy(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Returns whether a database was copied from another one after the latest refusal of logins there.

    Both have the mark of that refusal. A database that serves again has the mark of the refusal before.
    """
    return bool(new["tables"] and new["mark"] and new["mark"] == old["mark"])
