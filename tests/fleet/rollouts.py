# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Helpers for tests of rollouts: good and bad releases, observed workers, interrupted runs."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fleet import ROOT, Fleet, eventually
from release_version import release_version
from wsserver.witness import Report

HOME = "/opt/ws-server"
# A client is asked to reconnect, waits half a second at most, and connects to another worker. The
# bound leaves room for a slow machine.
AWAY_S = 30.0

# This program prints a line each quarter of a second on the workers' host: the generations in the
# links before and after it looks at the processes, the processes with their releases, and the
# number of ready workers.
LOOKS = """
import http.client, json, pathlib, re, time
home = pathlib.Path("/opt/ws-server/instances")
address = re.search('WS_LISTEN_ADDRESS="([^",]*)', (home / "80/env").read_text())[1]
program = re.compile(r"/opt/ws-server/releases/([^/]+)/bin/[^/]+\\0/opt/ws-server/instances/(\\d+)/release/bin/ws-server\\0")

def links():
    # Ansible moves a link by renaming another one onto it, which exists for a moment.
    return {link.name: link.readlink().name for link in home.iterdir() if link.name.isdigit()}

def processes():
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found = program.match(file.read_text())
        except OSError:
            continue
        if found:
            yield found[2], int(file.parent.name), found[1]

def ready(instance):
    asked = http.client.HTTPConnection(address, int("80" + instance), timeout=5)
    try:
        asked.request("GET", "/readyz")
        return asked.getresponse().status == 200
    except OSError:
        return False
    finally:
        asked.close()

while True:
    begin = time.monotonic()
    before, found = links(), list(processes())
    after = links()
    able = sum(map(ready, sorted(after)))
    print(json.dumps([before, found, after, able, time.monotonic() - begin]), flush=True)
    time.sleep(0.25)
"""


@dataclass(frozen=True)
class Look:
    """One look. `links`: the generations of each instance. `processes`: instance, pid, release."""

    links: dict[str, set[str]]
    processes: list[tuple[str, int, str]]
    ready: int
    seconds: float


class Workers:
    """All looks at the workers of a host."""

    def __init__(self) -> None:
        self.looks: list[Look] = []

    @property
    def fewest_ready(self) -> int:
        """The lowest number of ready workers.

        Slow looks do not count, as they cover a long time.
        """
        return min(look.ready for look in self.looks if look.seconds < 1)

    def pids(self) -> dict[str, list[int]]:
        """The processes of each instance, in the order of their first sight."""
        found: dict[str, list[int]] = {}
        for look in self.looks:
            for instance, pid, _release in look.processes:
                pids = found.setdefault(instance, [])
                if pid not in pids:
                    pids.append(pid)
        return found

    def strangers(self) -> list[str]:
        """Processes that began with another release than their instance's generation."""
        found, known = [], set()
        for last, look in zip(self.looks[:1] + self.looks, self.looks, strict=False):
            for instance, pid, release in look.processes:
                named = last.links.get(instance, set()) | look.links.get(instance, set())
                if pid not in known and release not in map(release_of, named):
                    found.append(f"{pid} of {instance} began as {release}, and its link named {named}")
                known.add(pid)
        return found


@contextlib.contextmanager
def observed(fleet: Fleet, host: str | None = None) -> Iterator[Workers]:
    """Observe the workers of a host during the context. The looks are available after its end."""
    workers = Workers()
    with tempfile.TemporaryFile("w+") as lines:
        command = fleet.command(host or fleet.worker_host, f"python3 -c {shlex.quote(LOOKS)}")
        looking = subprocess.Popen(command, stdout=lines)
        try:
            yield workers
            assert looking.poll() is None, "the observation has ended early"
        finally:
            looking.kill()
            looking.wait()
        lines.seek(0)
        for line in lines.read().splitlines()[:-1]:  # the last line may be incomplete
            before, processes, after, ready, seconds = json.loads(line)
            links = {name: {links[name] for links in (before, after) if name in links} for name in before | after}
            workers.looks.append(Look(links, [tuple(process) for process in processes], ready, seconds))


def judge(reports: list[Report], hosts: list[Workers]) -> None:
    """Assert that all workers were replaced once, one at a time.

    A client receives at most as many drain requests as there are workers.
    """
    asked = Counter(client.disconnects for report in reports for client in report.clients)
    times = ", ".join(f"{clients} {often} times" for often, clients in sorted(asked.items()))
    away_s = max(report.longest_away_s for report in reports)
    print(f"clients by number of requests to leave: {times}; back after {away_s:.2f} s at most")
    assert away_s < AWAY_S
    assert max(asked) <= sum(len(workers.pids()) for workers in hosts)
    for workers in hosts:
        instances = workers.looks[0].links.keys()
        assert {instance: len(pids) for instance, pids in workers.pids().items()} == dict.fromkeys(instances, 2)
        assert workers.strangers() == []
        assert workers.fewest_ready >= len(instances) - 1, workers.fewest_ready


def release_of(generation: str) -> str:
    return generation.rpartition("-")[0]


def links(fleet: Fleet, directory: str = "instances", host: str | None = None) -> dict[str, str]:
    """The generation of each instance, now or, with "before", before the last rollout."""
    listing = fleet.ssh(host or fleet.worker_host, f"find {HOME}/{directory} -type l -printf '%f %l\\n'")
    return dict(line.split(" ../generations/") for line in sorted(listing.splitlines()))


def serving(fleet: Fleet) -> list[str]:
    """The instances whose workers are ready."""
    return [instance for instance in links(fleet) if fleet.ready(instance)]


def assert_settled(fleet: Fleet, mark: str = "before/.unfinished") -> None:
    """Assert that a rollout left no drain, lock, `mark` or superfluous generation."""
    for host in fleet.worker_hosts:
        workers = json.loads(fleet.ssh(host, "ws-server ctl status --json"))
        assert {worker["worker"]: (worker["state"], worker["drained_by"]) for worker in workers} == {
            instance: ("ready", []) for instance in fleet.instances(host)
        }
        left = f"ls -d /var/lib/ws-fleet/lock {HOME}/{mark} {HOME}/releases/*.build 2>/dev/null"
        assert fleet.ssh(host, left, check=False) == ""
        needed = {*links(fleet, host=host).values(), *links(fleet, "before", host).values()}
        newest_first = fleet.ssh(host, f"ls -t {HOME}/generations").split()
        assert set(newest_first) == needed | set(newest_first[:3])
        releases = fleet.ssh(host, f"ls {HOME}/releases").split()
        assert set(releases) == set(map(release_of, newest_first))


def variant(directory: Path, changes: dict[str, str]) -> Path:
    """The service's source with additions to some files, or with more files."""
    source = directory / "wsserver"
    service = ROOT / "files/wsserver"
    shutil.copytree(service / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "requirements-build.txt", "README.md", "LICENSE"):
        shutil.copy(service / name, source / name)
    for name, more in changes.items():
        with (source / "src/wsserver" / name).open("a") as file:
            file.write(more)
    return source


def install(fleet: Fleet, directory: Path, changes: dict[str, str]) -> Path:
    """Create a variant whose release is already on the hosts, as a fast copy of another release."""
    source = variant(directory, changes)
    version = release_version(source)
    packed = subprocess.run(["tar", "-c", "-C", source / "src", "wsserver"], check=True, capture_output=True).stdout
    for host in fleet.worker_hosts:
        release, last = f"{HOME}/releases/{version}", f"{HOME}/releases/{release_of(links(fleet, host=host)['80'])}"
        steps = [
            f"set -e; rm -rf {release}; cp -al {last} {release}; cd {release}; packages=$(echo lib/python3*/site-packages)",
            # Changed files must not be hard links.
            "rm -r .complete bin/ws-server $packages/wsserver; tar -x -C $packages wsserver",
            f"sed '1s|.*|#!{release}/bin/python|' {last}/bin/ws-server >bin/ws-server; chmod 755 bin/ws-server",
            f"sed -i 's/^__version__.*/__version__ = \"{version}\"/' $packages/wsserver/__init__.py; touch .complete",
        ]
        subprocess.run(fleet.command(host, "; ".join(steps)), check=True, input=packed)
    return source


def kill_playbook(
    fleet: Fleet,
    playbook: str,
    task: str,
    arguments: list[str],
    when: Callable[[], bool] = lambda: True,
    inventory: Path | None = None,
) -> None:
    """Kill ansible-playbook with kill -9 once it has begun a task and `when` holds."""
    with fleet.playing(playbook, *arguments, inventory=inventory) as run:
        said = []
        try:
            for line in run.stdout:
                said.append(line)
                if line.startswith("TASK [") and line.split("]")[0].endswith(f" : {task}"):
                    break
            else:
                raise AssertionError(f"{playbook} ended before {task!r}: {''.join(said)[-6000:]}")
            eventually(when, 60, f"the moment to kill {playbook}")
        finally:
            run.kill()
