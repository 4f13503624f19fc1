# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The records of runs, with their subnets and hosts, and the locks for changing them.

The record of a run is written before any of its parts are created, so that the remains of a killed
run have a name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .shell import LabError

STATE = Path("/var/lib/ws-lab")
LOCKS = STATE / ".locks"


@dataclass
class Host:
    name: str
    number: int
    suite: str
    # A complete host that has answered. A host that is not ready is created again.
    ready: bool = False
    # The snapshot with which the host began; empty for a bare base system.
    snapshot: str = ""


@dataclass
class Run:
    name: str
    # The number of the run's /24 in the pool.
    subnet: int = -1
    # The process that will take the run down ("PID START-TIME"); empty for a run without an owner.
    owner: str = ""
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return STATE / self.name

    @property
    def key(self) -> Path:
        return self.directory / "ssh_key"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def save(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.directory / "run.json.new"
        draft.write_text(json.dumps(asdict(self), indent=2))
        draft.rename(self.directory / "run.json")

    def forget(self) -> None:
        # The record is deleted last, so that the remains of a run always have a name.
        for path in self.directory.iterdir():
            if path.name != "run.json":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(self.directory)


def check_name(kind: str, name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise LabError(f"the {kind} name {name!r} must be lower case letters, digits and dashes, at most 40")
    return name


def load(name: str) -> Run | None:
    try:
        record = json.loads((STATE / name / "run.json").read_text())
    except FileNotFoundError:
        return None
    hosts = {key: Host(**value) for key, value in record.pop("hosts").items()}
    return Run(**record, hosts=hosts)


def all_runs() -> list[Run]:
    names = sorted(path.parent.name for path in STATE.glob("*/run.json"))
    return [run for run in map(load, names) if run]


@contextlib.contextmanager
def locked(name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a run (or ``.all``, the lock of all runs).

    Yields whether the lock is held.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def process_identity(pid: int) -> str:
    """A process's PID and start time, which identify the process; '' if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return f"{pid} {fields[19]}"


def is_abandoned(run: Run) -> bool:
    return bool(run.owner) and process_identity(int(run.owner.split()[0])) != run.owner


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("The lab boots hosts and needs root. Run it again with sudo.")
