# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Snapshots: hosts of a run in the cache, with which later runs begin.

A host's own layer becomes a read-only layer below the layers of later hosts, so that using a
snapshot copies nothing. Deployed hosts know their addresses, so a snapshot is usable only while the
subnet of its run is free.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from . import image, network, state
from .shell import LabError, run
from .state import Host, Run

DIRECTORY = state.STATE / ".snapshots"
KEYS = ("ssh_key", "ssh_key.pub", "known_hosts")


class UnavailableError(LabError):
    """The snapshot does not exist, its subnet is in use, or its hosts need other base systems."""


def layer(host: Host) -> Path:
    """The directory of a host's layer in the snapshot with which the host began."""
    return DIRECTORY / host.snapshot / "hosts" / host.name


def subnets() -> set[str]:
    """The subnets that snapshots need."""
    return {json.loads(path.read_text())["subnet"] for path in DIRECTORY.glob("*/run.json")}


def keep(one: Run, name: str, uppers: dict[str, Path]) -> None:
    """Move the layers of a run's halted hosts into a snapshot, which the run's hosts then use."""
    draft = DIRECTORY / f"{name}.new"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "hosts").mkdir(parents=True)
    for key in KEYS:
        shutil.copy2(one.directory / key, draft / key)
    for host, upper in uppers.items():
        _move(upper.resolve(), draft / "hosts" / host)
    record = {**asdict(one), "subnet": str(network.subnet(one)), "bases": _bases(one)}
    (draft / "run.json").write_text(json.dumps(record))
    draft.rename(DIRECTORY / name)
    for host in uppers:
        one.hosts[host].snapshot = name
    one.save()


def _move(upper: Path, target: Path) -> None:
    """Move a layer with the extended attributes of overlay, and leave an empty layer."""
    if upper.is_relative_to(state.STATE):
        upper.rename(target)
        upper.mkdir()
    else:  # in memory
        run(["cp", "--archive", upper, target], timeout=600)
        for path in upper.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def begin(one: Run, name: str) -> None:
    """Give a new run the hosts, the keys and the subnet of a snapshot.

    Call with the lock of all runs held. Raises UnavailableError if the snapshot cannot be used.
    """
    directory = DIRECTORY / name
    try:
        record = json.loads((directory / "run.json").read_text())
    except FileNotFoundError:
        raise UnavailableError(f"there is no snapshot {name}") from None
    number = network.free_subnets().get(record["subnet"])
    if number is None:
        raise UnavailableError(f"the subnet {record['subnet']} of snapshot {name} is in use")
    one.subnet = number
    one.hosts = {key: Host(**value) for key, value in record["hosts"].items()}
    if record["bases"] != _bases(one):
        raise UnavailableError(f"the hosts of snapshot {name} need other base systems")
    for host in one.hosts.values():
        host.snapshot, host.ready = name, False
    one.save()
    for key in KEYS:
        shutil.copy2(directory / key, one.directory / key)


def _bases(one: Run) -> dict[str, str]:
    return {host.suite: image.base(host.suite).name for host in one.hosts.values()}


def forget_others(name: str) -> None:
    """Delete unused snapshots that `name` replaces, with the same name up to the last dash."""
    used = {host.snapshot for run in state.all_runs() for host in run.hosts.values()}
    for path in DIRECTORY.glob(f"{name.rpartition('-')[0]}-*"):
        if path.name != name and path.name not in used:
            shutil.rmtree(path)
