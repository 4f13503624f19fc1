# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Everything that CI checks, three stages at a time: they wait more than they work. Each stage's output is in .lab/test/; a failed one's end is shown."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".lab/test"
# Short, since there will be sockets in it. In memory, since on a disk that the other stages keep busy, a Redis or Postgres that a stage starts
# answers some writes after seconds; what is left of it after kill -9 is the same.
SCRATCH = Path("/dev/shm", f"ws-test-{hashlib.sha256(bytes(ROOT)).hexdigest()[:8]}")  # noqa: S108 - this run clears what is there
# In this order, so that the one that takes longest does not come last.
STAGES = {
    "hosts": ["ci/hosts.sh"],
    "debian13": ["molecule", "test", "--destroy", "never", "--scenario-name", "debian13"],
    "unit": ["ci/unit.sh"],
    "lint": ["ci/lint.sh"],
}
STAGE_TIMEOUT = 4500
# Whatever a stage starts inherits this variable, and is found by it when the stage, or this program, was killed.
MARK = f"WS_TEST_CLONE={ROOT}"
stopping = threading.Event()


def run_stage(name: str) -> bool:
    begin = time.monotonic()
    print(f"{name}: started", flush=True)
    scratch = SCRATCH / name
    scratch.mkdir(parents=True)
    mark, _, clone = MARK.partition("=")
    environment = os.environ | {
        mark: clone,
        "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
        "TMPDIR": str(scratch),
        "MOLECULE_EPHEMERAL_DIRECTORY": str(scratch / "molecule"),
        "MOLECULE_COMMAND_BORDERS": "false",
        "NO_COLOR": "1",
        "ANSIBLE_NOCOLOR": "1",
        "WS_LAB_OWNER": str(os.getpid()),
    }
    log = LOGS / f"{name}.log"
    with log.open("wb") as output:
        try:
            stage = subprocess.Popen(
                STAGES[name],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C is this program's to answer
            )
            passed = stage.wait(STAGE_TIMEOUT) == 0
        except subprocess.TimeoutExpired:
            stage.kill()
            output.write(f"\nnot done after {STAGE_TIMEOUT} s\n".encode())
            passed = False
    if stopping.is_set():
        return False
    print(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - begin:.0f} s", flush=True)
    if not passed:
        tail = log.read_text(errors="replace").splitlines()[-120:]
        print("\n".join(f"    {line}" for line in tail), f"    (all of it: {log})", sep="\n", flush=True)
    return passed


def clear() -> None:
    """End what an earlier or this run of the tests has started, and unmake its hosts."""
    while strays := [pid for pid in processes() if is_stray(pid)]:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    for command in (["ci/molecule.sh", "destroy"], ["ci/hosts.sh", "clear"]):
        subprocess.run(command, cwd=ROOT, check=True)


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def is_stray(pid: int) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return MARK.encode() in variables and state != "Z" and pid != os.getpid()


def main() -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    lock = (LOGS / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("The tests are running in this clone already.", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    clear()
    begin = time.monotonic()
    pool = concurrent.futures.ThreadPoolExecutor(3)
    try:
        results = [pool.submit(run_stage, name) for name in STAGES]
        passed = sum(result.result() for result in results)
    except KeyboardInterrupt:
        stopping.set()
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        clear()
    minutes, seconds = divmod(int(time.monotonic() - begin), 60)
    print(f"in {minutes} min {seconds} s")
    print(f"{passed} passed, {len(STAGES) - passed} failed")
    return 0 if passed == len(STAGES) else 1


if __name__ == "__main__":
    sys.exit(main())
