# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""`make up`: from a machine with the prerequisites to a serving fleet on a test host."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from verbs import playbook
from verbs.console import Console
from verbs.playbook import UP, ProgramError
from verbs.progress import Plays, clock, step_line

_GROUPS = "ws_edge,ws_workers,ws_redis,ws_postgres,ws_observability"
_END = """
The fleet serves at  {url}

A token              make token USER=alice
Talk, two terminals  .venv/bin/python lab/talk.py alice
                     .venv/bin/python lab/talk.py bob
With websocat        SSL_CERT_FILE=.lab/up/ca.pem websocat -H="Authorization: Bearer $(make token USER=alice)" {url}
                     then type  {{"type":"join","room":"lobby"}}
                     and        {{"type":"publish","room":"lobby","data":"hello","id":"1"}}
All addresses        make status
State in numbers     make look
Replace its workers  make roll
A shell on the host  lab/lab ssh --run {run} fleet
Remove the fleet     make down"""


class Steps:
    """Prints a line for each step. `began` is the Unix time when the verb began."""

    def __init__(self, console: Console, began: float) -> None:
        self._console = console
        self._began = began

    @property
    def elapsed(self) -> float:
        return time.time() - self._began

    def run(self, name: str, argv: Sequence[str | Path], log: Path) -> None:
        began = self.elapsed
        playbook.run(name, argv, log, lambda: self._console.live(f"{clock(self.elapsed):>6}  {name}"))
        self.done(name, self.elapsed - began)

    def play(self, name: str, log: Path) -> None:
        """Run a playbook, with one step per play."""
        plays = Plays(self.elapsed)

        def take(event: dict[str, str]) -> None:
            for step in plays.feed(event, self.elapsed):
                self.done(*step)

        def look() -> None:
            self._console.live(f"{clock(self.elapsed):>6}  {plays.where}")

        playbook.play(name, log, take, look)
        for step in plays.finish(self.elapsed):
            self.done(*step)

    def done(self, name: str, seconds: float) -> None:
        self._console.line(step_line(self.elapsed, name, seconds))


def up(run: str, suite: str, console: Console, began: float) -> None:
    """Deploy the fleet. Raises ProgramError."""
    UP.mkdir(parents=True, exist_ok=True)
    log, ansible = UP / "lab.log", UP / "ansible.log"
    for each in (log, ansible):
        each.unlink(missing_ok=True)
    steps = Steps(console, began)
    steps.done("Look for the prerequisites", steps.elapsed)
    steps.run(
        "Boot the test host", ["lab/lab", "up", "--run", run, *(["--suite", suite] if suite else []), "fleet"], log
    )
    steps.run("Build the packages that stand in for Grafana, Loki, Tempo, Alloy", ["lab/standins.sh"], log)
    inventory = ["lab/inventory", "--run", run, "--directory", str(UP), f"fleet={_GROUPS}"]
    steps.run("Write the inventory", inventory, log)
    steps.play("site", ansible)
    certificate = subprocess.check_output(["lab/lab", "ssh", "--run", run, "fleet", "cat", "/etc/ssl/ws/ca.pem"])
    draft = UP / "ca.pem.new"
    draft.write_bytes(certificate)
    draft.rename(UP / "ca.pem")
    url = json.loads((UP / "status.json").read_text())["url"]
    console.line(_END.format(url=url, run=run))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="the name of the lab's run")
    parser.add_argument("--suite", default="", help="Debian's release")
    parser.add_argument("--began", type=float, required=True, help="when the verb began, as Unix time")
    given = parser.parse_args()
    playbook.end_as_on_interrupt()
    console = Console()
    try:
        up(given.run, given.suite, console, given.began)
    except ProgramError as failure:
        console.clear()
        print(failure.report(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.clear()
        print("Interrupted. make up continues from here, and make down removes everything.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
