# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""`make roll`: replaces the workers of `make up` while 500 clients use them, and reports the
result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from verbs import playbook
from verbs.console import Console
from verbs.playbook import ROOT, UP, ProgramError
from verbs.progress import PLAYBOOKS, Plays, Turns, Witnessed, clock, next_playbook, witnessed

_CONNECTIONS, _PUBLISHERS = 500, 4
# The time that the last drained clients may still need to reconnect.
_AFTERMATH_S = 3.0
_LOOK_S = 0.2


class Witness:
    """`ws-server witness` in a separate process."""

    def __init__(self, url: str, secret: str) -> None:
        self._log, self._report = UP / "witness.log", UP / "witness.txt"
        reading, writing = os.pipe()
        os.write(writing, secret.encode())
        os.close(writing)
        options = {
            "--ca-file": UP / "ca.pem",
            "--jwt-secret-file": f"/dev/fd/{reading}",
            "--connections": _CONNECTIONS,
            "--rooms": 50,
            "--publishers": _PUBLISHERS,
            "--rate": 100,
        }
        with self._report.open("wb") as report, self._log.open("wb") as log:
            self._process = playbook.start(
                [
                    *(sys.executable, "-m", "wsserver", "witness", url),
                    *(str(part) for pair in options.items() for part in pair),
                ],
                env=os.environ | {"PYTHONPATH": str(ROOT / "files/wsserver/src")},
                pass_fds=[reading],
                stdout=report,
                stderr=log,
                start_new_session=True,  # only this program handles a Ctrl-C
            )
        os.close(reading)

    @property
    def sees(self) -> Witnessed | None:
        return witnessed(self._log.read_text()[-65536:])

    @property
    def watches(self) -> bool:
        return self._process.poll() is None

    def wait_for_clients(self, console: Console, began: float) -> None:
        """Wait until all clients are connected. Raises ProgramError."""
        while not ((sees := self.sees) and sees.ready):
            if not self.watches:
                raise ProgramError("The witness", self._process.returncode, self._log)
            console.live(f"{clock(time.monotonic() - began)} · {sees or f'{_CONNECTIONS + _PUBLISHERS} clients join'}")
            time.sleep(_LOOK_S)

    def finish(self, console: Console) -> str:
        """End the witness and return its report. Raises ProgramError without a report."""
        if self.watches:  # the witness ends early if clients cannot connect
            self._process.send_signal(signal.SIGINT)
        while self.watches:
            console.live("The clients wait for messages in flight")
            time.sleep(_LOOK_S)
        report = self._report.read_text().strip()
        if not report:
            raise ProgramError("The witness", self._process.returncode, self._log)
        return report

    @property
    def kept(self) -> bool:
        return self._process.returncode == 0

    def end(self) -> None:
        if self.watches:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def watching(url: str, secret: str) -> Iterator[Witness]:
    witness = Witness(url, secret)
    try:
        yield witness
    finally:
        witness.end()


def roll(run: str, asked: str, console: Console) -> bool:
    """Return whether the rollout succeeded and the promise was kept. Raises ProgramError."""
    began = time.monotonic()
    url = json.loads((UP / "status.json").read_text())["url"]
    secret = subprocess.check_output(
        ["lab/lab", "ssh", "--run", run, "fleet", '. /etc/ws-server/env; echo "$WS_JWT_SECRET"'], text=True
    )
    log = UP / "roll.log"
    log.unlink(missing_ok=True)
    failure: ProgramError | None = None
    with watching(url, secret) as witness:
        witness.wait_for_clients(console, began)
        console.line(f"{clock(time.monotonic() - began)} · {witness.sees}")
        done: list[tuple[str, int]] = []
        while failure is None and (name := next_playbook(asked, done)):
            console.line(f"{clock(time.monotonic() - began)} · {_reason(name, done)}")
            failure, replaced = _play(name, log, witness, console, began)
            done.append((name, replaced))
        time.sleep(_AFTERMATH_S)
        report = witness.finish(console)
    if failure:
        console.line(failure.report())
    name, replaced = done[-1]
    console.line(f"\n{name} replaced {replaced or 'no'} worker{'' if replaced == 1 else 's'}. What the clients saw:\n")
    console.line(report)
    return failure is None and witness.kept


def _reason(name: str, done: list[tuple[str, int]]) -> str:
    """The reason why this playbook runs now."""
    return f"nothing is new, so {name} restarts the workers" if done else f"playbooks/{name}.yml begins"


def _play(name: str, log: Path, witness: Witness, console: Console, began: float) -> tuple[ProgramError | None, int]:
    """Run a playbook. Return its error, if any, and the number of replaced workers."""
    plays, turns = Plays(0), Turns()

    def take(event: dict[str, str]) -> None:
        plays.feed(event, 0)
        if said := turns.feed(event):
            console.line(f"{clock(time.monotonic() - began)} · {said}")

    def look() -> None:
        console.live(turns.live(plays.where, time.monotonic() - began, witness.sees))

    try:
        playbook.play(name, log, take, look)
    except ProgramError as failure:
        return failure, turns.begun
    return None, turns.begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="the name of the lab's run")
    parser.add_argument("playbook", nargs="?", default="", help=f"one of {', '.join(PLAYBOOKS)}")
    given = parser.parse_args()
    if given.playbook not in ("", *PLAYBOOKS):
        print(f"PLAYBOOK is {given.playbook}; it must be one of {', '.join(PLAYBOOKS)}.", file=sys.stderr)
        return 2
    if not (UP / "ca.pem").exists():
        print("There is no fleet. Run: make up", file=sys.stderr)
        return 2
    playbook.end_as_on_interrupt()
    console = Console()
    try:
        return 0 if roll(given.run, given.playbook, console) else 1
    except ProgramError as failure:
        console.clear()
        print(failure.report(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.clear()
        print("Interrupted. The next make roll completes the rollout.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
