# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""One host: its file system, its control group, its boot and its end."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import image, network, snapshot
from .shell import LabError, run, succeeds, write
from .state import Host, Run

KEEPER = Path(__file__).with_name("keeper.sh")
MEMORY = Path("/dev/shm/ws-lab")  # noqa: S108 - root's, and cleared by name
CGROUPS = Path("/sys/fs/cgroup")
BOOT_TIMEOUT = 90.0
END_TIMEOUT = 20.0


def directory(one: Run, host: Host) -> Path:
    return one.directory / "hosts" / host.name


def memory(one: Run, host: Host) -> Path:
    """The directory, in memory, of a test host's own layer.

    A Redis that writes to a busy disk answers some writes after ten seconds. After kill -9 or a
    reboot of the host, memory holds the same data as a disk.
    """
    return MEMORY / one.name / host.name


def machine(one: Run, host: Host) -> str:
    return f"ws-lab-{one.name}-{host.name}"


def make(one: Run, host: Host) -> None:
    """Create a host's file system: the base, then its snapshot if any, then its own layer."""
    unmake(one, host)
    home = directory(one, host)
    (home / "root").mkdir(parents=True)
    for part in ("upper", "work"):
        if one.owner:
            (memory(one, host) / part).mkdir(parents=True)
            (home / part).symlink_to(memory(one, host) / part)
        else:
            (home / part).mkdir()
    (home / "base").symlink_to(image.base(host.suite))
    if host.snapshot:
        return
    root = home / "upper"
    image.furnish(root, host.suite)
    image.lend_packages(root, host.suite)
    _identify(one, host, root)


def _identify(one: Run, host: Host, root: Path) -> None:
    etc = root / "etc"
    write(etc / "hostname", f"{host.name}\n")
    write(etc / "hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {host.name}\n")
    write(etc / "machine-id", f"{secrets.token_hex(16)}\n")
    write(etc / "default/locale", "LANG=C.UTF-8\n")
    # Kernel settings other than the network's belong to the control machine: booting a host must
    # not apply Debian's settings to that machine.
    (etc / "sysctl.d").mkdir()
    for name in ("50-default.conf", "50-pid-max.conf"):
        (etc / "sysctl.d" / name).symlink_to("/dev/null")
    (etc / "ssh").mkdir()
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", etc / "ssh/ssh_host_ed25519_key"])
    address = network.address(one, host)
    known = one.known_hosts.read_text().splitlines() if one.known_hosts.exists() else []
    known = [line for line in known if line.split()[0] != address]
    known.append(f"{address} {(etc / 'ssh/ssh_host_ed25519_key.pub').read_text().strip()}")
    write(one.known_hosts, "\n".join(known) + "\n")
    keys = root / "root/.ssh"
    keys.mkdir(parents=True, mode=0o700)
    (root / "root").chmod(0o700)
    shutil.copy(one.key.with_suffix(".pub"), keys / "authorized_keys")


def is_running(one: Run, host: Host) -> bool:
    return any(_processes(group) for group in _groups(one, host))


def boot(one: Run, host: Host) -> None:
    """Start a host that has a file system and is not running. Does not wait for it."""
    halt(one, host)
    network.plug_in(one, host)
    home = directory(one, host)
    below = [*([snapshot.layer(host)] if host.snapshot else []), (home / "base").resolve()]
    layers = f"lowerdir={':'.join(map(str, below))},upperdir={home / 'upper'},workdir={home / 'work'}"
    run(["mount", "-t", "overlay", machine(one, host), "-o", layers, home / "root"])
    wheels = image.CACHE / "pip"
    wheels.mkdir(parents=True, exist_ok=True)
    for group in _groups(one, host):
        _make_group(group)
    command = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        f"--directory={home / 'root'}",
        f"--machine={machine(one, host)}",
        f"--hostname={host.name}",
        f"--network-namespace-path=/run/netns/{network.namespace(one, host)}",
        "--capability=CAP_NET_ADMIN",  # root of a host may set up its network; nspawn grants it only in its own namespaces
        f"--bind={wheels}:/root/.cache/pip",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=pipe",
        "--boot",
        "--",
        "--show-status=1",
    ]
    environment = {
        "PATH": os.environ["PATH"],
        # systemd in the host refuses version 1 control groups, so it gets version 2 even on a
        # machine with version 1.
        "UNIFIED_CGROUP_HIERARCHY": "1",
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        # Roles set sysctls.
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",
        # The lab has its own locks; nspawn's would outlive a killed host.
        "SYSTEMD_NSPAWN_LOCK": "0",
        "LAB_CGROUPS": " ".join(str(group / "machine") for group in _groups(one, host)),
    }
    with _console(one, host).open("ab") as console:
        subprocess.Popen(
            [KEEPER, *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: _enter(one, host),  # noqa: PLW1509 (no threads here)
        )


def wait(one: Run, host: Host) -> None:
    """Wait until a host has finished booting and accepts SSH."""
    deadline = time.monotonic() + BOOT_TIMEOUT
    asked = "no answer over SSH"
    while time.monotonic() < deadline:
        if not is_running(one, host):
            asked = "it stopped"
            break
        done = subprocess.run(
            [*ssh(one, host, "-o", "ConnectTimeout=2"), "systemctl is-system-running --wait"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BOOT_TIMEOUT,
            check=False,
        )
        if done.stdout.strip() == "running":
            return
        if done.stdout.strip() == "degraded":
            asked = "units failed: " + run([*ssh(one, host), "systemctl --failed --plain --no-legend"]).strip()
            break
        asked = done.stdout.strip() or done.stderr.strip() or asked
        time.sleep(0.2)
    tail = "\n".join(_console(one, host).read_text(errors="replace").splitlines()[-20:])
    raise LabError(f"host {host.name} of run {one.name} did not boot ({asked}); the end of its console:\n{tail}")


def ssh(one: Run, host: Host, *options: str) -> list[str]:
    """The start of a command line that reaches a host over SSH."""
    fixed = ["-F", "none", "-i", str(one.key), "-o", f"UserKnownHostsFile={one.known_hosts}", "-o", "LogLevel=ERROR"]
    fixed += ["-o", "BatchMode=yes", "-o", "ServerAliveInterval=10"]
    return ["ssh", *fixed, *options, f"root@{network.address(one, host)}"]


def power_off(one: Run, host: Host) -> None:
    """Shut a host down cleanly, because its file system will be used again."""
    succeeds([*ssh(one, host), "systemctl poweroff"])
    deadline = time.monotonic() + BOOT_TIMEOUT
    while is_running(one, host):
        if time.monotonic() > deadline:
            raise LabError(f"host {host.name} of run {one.name} does not power off")
        time.sleep(0.1)
    halt(one, host)


def halt(one: Run, host: Host) -> None:
    """End a host's processes and undo its boot. The file system stays."""
    # Ansible keeps a connection open for its next task. Without the host, that connection would
    # hang.
    succeeds(["ssh", "-F", "none", "-O", "exit", "-S", one.directory / f"ssh-{network.address(one, host)}", "host"])
    deadline = time.monotonic() + END_TIMEOUT
    while is_running(one, host):
        if time.monotonic() > deadline:
            raise LabError(f"the processes of host {host.name} of run {one.name} do not end")
        for group in _groups(one, host):
            for pid in _processes(group):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.05)
    for mount in _mounts(one, host):
        while not succeeds(["umount", mount]):
            if time.monotonic() > deadline:
                raise LabError(f"{mount} does not unmount")
            time.sleep(0.1)
    for group in _groups(one, host):
        _note_cpu_seconds(group)
        _remove_group(group, deadline)
    for leftover in Path("/run/systemd/nspawn").glob(f"*/{machine(one, host)}"):
        leftover.rmdir()
    network.unplug(one, host)


def unmake(one: Run, host: Host) -> None:
    halt(one, host)
    home = directory(one, host)
    if (home / "upper").exists():
        image.keep_packages(home / "upper", host.suite)
    for path in (home, memory(one, host)):
        if path.exists():
            shutil.rmtree(path)
    with contextlib.suppress(OSError):  # other hosts of the run
        memory(one, host).parent.rmdir()


def _console(one: Run, host: Host) -> Path:
    return directory(one, host) / "console.log"


def _mounts(one: Run, host: Host) -> list[str]:
    """The mounts of a host, innermost first. (nspawn has its own under /run, by machine name.)"""
    table = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    own = re.compile(
        rf"{re.escape(str(directory(one, host)))}/root(/.*)?|/run/.*/{re.escape(machine(one, host))}(/.*)?"
    )
    return [path for path in reversed(table) if own.fullmatch(path)]


# Control groups. A host needs its own group in each hierarchy that systemd uses: otherwise all
# hosts would share the control machine's groups and stop each other's services. Below this group,
# "keeper" has the process that starts the host (again after a reboot), and "machine" is the host's.


def _groups(one: Run, host: Host) -> list[Path]:
    pure = (CGROUPS / "cgroup.controllers").exists()
    hierarchies = [CGROUPS] if pure else [CGROUPS / "systemd", CGROUPS / "unified"]
    return [path / "ws-lab" / one.name / host.name for path in hierarchies if path.exists()]


def _make_group(group: Path) -> None:
    for part in ("keeper", "machine"):
        (group / part).mkdir(parents=True, exist_ok=True)
    # Version 2 delegates controllers one level at a time.
    for level in reversed([group, *group.parents[: len(group.parents) - len(CGROUPS.parents)]]):
        controllers = level / "cgroup.controllers"
        for name in controllers.read_text().split() if controllers.exists() else []:
            with contextlib.suppress(OSError):  # a controller that this machine does not delegate
                (level / "cgroup.subtree_control").write_text(f"+{name}")


def _enter(one: Run, host: Host) -> None:
    for group in _groups(one, host):
        (group / "keeper/cgroup.procs").write_text("0")


def _processes(group: Path) -> list[int]:
    found: list[int] = []
    for path in group.rglob("cgroup.procs"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # the group was removed meanwhile
            continue
    return found


def _note_cpu_seconds(group: Path) -> None:
    """Append the CPU seconds of a host to the file in $WS_LAB_CPU_SECONDS, if set."""
    file, statistics = os.environ.get("WS_LAB_CPU_SECONDS"), group / "cpu.stat"
    if file and statistics.exists():
        used = dict(line.split() for line in statistics.read_text().splitlines())
        with Path(file).open("a") as lines:
            lines.write(f"{int(used['usage_usec']) / 1e6:.1f}\n")


def _remove_group(group: Path, deadline: float) -> None:
    while group.exists():
        try:
            for path, _, _ in os.walk(group, topdown=False):
                Path(path).rmdir()
        except OSError:  # a dead process has not left its group yet
            if time.monotonic() > deadline:
                raise LabError(f"the control group {group} cannot be removed") from None
            time.sleep(0.05)
    for parent in list(group.parents)[:2]:
        try:
            parent.rmdir()
        except OSError:  # other hosts, other runs
            return
