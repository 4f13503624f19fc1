# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Runs everything that CI checks, in parallel stages.

Shows the progress of each stage and each failed test at once, and at the end the wall and CPU
seconds of every stage. Each stage's output is in .lab/test/NAME.log.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from control_group import ControlGroup
from progress import Progress

ROOT = Path(__file__).resolve().parent.parent
CLONE = hashlib.sha256(bytes(ROOT)).hexdigest()[:8]
LOGS = ROOT / ".lab/test"
# The path is short, because it will contain sockets. The directory is in memory, because on a busy
# disk a Redis or Postgres of the tests answers some writes after seconds. After kill -9, memory
# holds the same data as a disk.
SCRATCH = Path("/dev/shm", f"ws-test-{CLONE}")  # noqa: S108 - this run clears what is there
GROUP = ControlGroup(f"ws-test/{CLONE}")
# Lanes run side by side, each one stage after the other.
LANES = [
    {
        "lint": ["ci/lint.sh"],
        "unit": ["ci/unit.sh", "rest"],
        "service": ["ci/unit.sh", "service"],
        "foreign": ["ci/foreign.sh"],
    },
    {"hosts": ["ci/hosts.sh"]},
    {
        "one-host": [
            "ci/one_host.sh",
            "debian13",
            "-m",
            "not rolls and not observability and not hosts and not stores and not debian_upgrade",
        ],
    },
]
STAGE_TIMEOUT_S = 4500
HEARTBEAT_S = 30
TAIL = 60
stopping = threading.Event()


@dataclass
class Stage:
    """One stage: its process and its outcome."""

    name: str
    command: list[str]
    begun: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    outcome: str = "not run"
    shown: str = ""
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.log.write_bytes(b"")
        self.progress = Progress(self.log)

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"

    def run(self) -> None:
        """Run to the end, or to the timeout."""
        if stopping.is_set():
            return
        scratch = SCRATCH / self.name
        scratch.mkdir(parents=True)
        hosts_cpu = scratch / "hosts-cpu-seconds"
        group = ControlGroup(f"ws-test/{CLONE}/{self.name}")
        group.make()
        environment = os.environ | {
            "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
            "TMPDIR": str(scratch),
            "MOLECULE_EPHEMERAL_DIRECTORY": str(scratch / "molecule"),
            "MOLECULE_COMMAND_BORDERS": "false",
            "NO_COLOR": "1",
            "ANSIBLE_NOCOLOR": "1",
            "WS_LAB_OWNER": str(os.getpid()),
            "WS_LAB_CPU_SECONDS": str(hosts_cpu),
            # Fewer than in make unit, because the stages with hosts take longest and must not wait.
            "WS_TEST_PROCESSES": str(os.cpu_count()),
        }
        self.begun = time.monotonic()
        say(f"{self.name}: started")
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # only this program handles a Ctrl-C
                preexec_fn=group.enter,  # noqa: PLW1509 - it writes one file
            )
            try:
                self.outcome = "passed" if process.wait(STAGE_TIMEOUT_S) == 0 else "FAILED"
            except subprocess.TimeoutExpired:
                process.kill()
                output.write(f"\nnot done after {STAGE_TIMEOUT_S} s\n".encode())
                self.outcome = "FAILED"
        self.wall_s = time.monotonic() - self.begun
        self.cpu_s = group.cpu_seconds()
        if hosts_cpu.exists():
            self.cpu_s += sum(map(float, hosts_cpu.read_text().split()))
        if not stopping.is_set():
            self.tell()

    def tell(self) -> None:
        """Report the outcome, and show the end of the log of a failed stage."""
        say(f"{self.name}: {self.outcome} in {self.wall_s:.0f} s, {self.cpu_s:.0f} CPU seconds")
        if self.outcome == "FAILED":
            tail = self.log.read_text(errors="replace").splitlines()[-TAIL:]
            print("\n".join(f"    {line}" for line in tail), f"    (all of it: {self.log})", sep="\n", flush=True)

    def look(self, heartbeat: bool) -> None:
        """Show tests that failed since the last call, and with `heartbeat` the current step."""
        for test in self.progress.read():
            say(f"{self.name}: FAILED {test}")
        now = str(self.progress)
        if heartbeat and now and now != self.shown:
            self.shown = now
            say(f"{self.name}: {now}")


begin = time.monotonic()


def say(text: str) -> None:
    """Print a line that begins with the time since the tests began."""
    minutes, seconds = divmod(int(time.monotonic() - begin), 60)
    sys.stdout.write(f"[{minutes:2}:{seconds:02}] {text}\n")  # one write: stages may end at the same time
    sys.stdout.flush()


def run_in_turn(lane: list[Stage]) -> None:
    for stage in lane:
        stage.run()


def watch(stages: list[Stage], runs: list[concurrent.futures.Future[None]]) -> None:
    """Show the progress until all stages have ended."""
    last = time.monotonic()
    while not all(run.done() for run in runs):
        time.sleep(1)
        heartbeat = time.monotonic() - last >= HEARTBEAT_S
        if heartbeat:
            last = time.monotonic()
        for stage in stages:
            if stage.begun:
                stage.look(heartbeat and not stage.wall_s)
    for run in runs:
        run.result()


def clear() -> None:
    """End all processes of this run or a killed run, and remove their hosts."""
    GROUP.make()
    GROUP.end()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    for command in (["ci/molecule.sh", "destroy"], ["ci/hosts.sh", "clear"], ["ci/foreign.sh", "clear"]):
        subprocess.run(command, cwd=ROOT, check=True)


def table(stages: list[Stage]) -> str:
    rows = [("stage", "", "wall s", "CPU s")]
    rows += [(one.name, one.outcome, f"{one.wall_s:.0f}", f"{one.cpu_s:.0f}") for one in stages]
    rows += [("all", "", f"{time.monotonic() - begin:.0f}", f"{sum(one.cpu_s for one in stages):.0f}")]
    return "\n".join(f"{name:10} {outcome:8} {wall:>7} {cpu:>7}" for name, outcome, wall, cpu in rows)


def main() -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    lock = (LOGS / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("The tests are already running in this clone.", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    clear()
    lanes = [[Stage(name, command) for name, command in lane.items()] for lane in LANES]
    stages = [stage for lane in lanes for stage in lane]
    pool = concurrent.futures.ThreadPoolExecutor(len(lanes))
    try:
        watch(stages, [pool.submit(run_in_turn, lane) for lane in lanes])
    except KeyboardInterrupt:
        stopping.set()
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        clear()
    failed = [stage for stage in stages if stage.outcome != "passed"]
    print()
    for stage in failed:
        for test in stage.progress.failed:
            print(f"{stage.name}: FAILED {test}")
    print(table(stages))
    print(f"{len(stages) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
