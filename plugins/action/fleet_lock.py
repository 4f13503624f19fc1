# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The control machine's part of the module: who this run is, and whether the one that has the lock has ended."""

from __future__ import annotations

import getpass
import os
import pathlib
import socket

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase


def _started(pid: int) -> str | None:
    """When a process of this machine was started, in the kernel's ticks since the boot; None if there is no such process."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _boot() -> str:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def this_run() -> str:
    """Machine, boot, process and its start: no two runs have all of them in common. A task runs in a child of the run's process."""
    return " ".join([_machine(), _boot(), str(os.getppid()), _started(os.getppid()) or "?"])


def _machine() -> str:
    try:
        return pathlib.Path("/etc/machine-id").read_text(encoding="utf-8").strip() or socket.gethostname()
    except OSError:
        return socket.gethostname()


def is_over(run: str) -> bool:
    """Whether it is known that a run has ended: only of this machine's."""
    parts = run.split(" ")
    if len(parts) != 4 or not parts[2].isdigit() or parts[0] != _machine():
        return False
    return parts[1] != _boot() or _started(int(parts[2])) != parts[3]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _explained(holder: dict, host: str, path: str) -> str:
    why = f" for: {holder['reason']}" if holder["reason"] else ""
    return (
        f"{holder['owner']} is changing this fleet{why}. The last sign of that run was {_duration(holder['silent_s'])} ago (lock {path} on {host}). "
        "Wait until it is done. If it is over, because its machine or its terminal is gone, run this again with -e ws_lock_break=true: "
        "what it left half done is finished."
    )


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        given = self._task.args | {"run": this_run(), "owner": f"{getpass.getuser()}@{socket.gethostname()}"}
        result = self._ask(given, task_vars)
        holder = result.get("holder")
        if not holder:
            return result
        over = is_over(holder["run"])
        if over or boolean(given.get("break", False)):
            state = "has ended" if over else "is said to be over"
            self._display.display(
                f"The lock of {holder['owner']} ({holder['reason']}) is taken over: that run {state}."
            )
            result = self._ask(given | {"instead_of": holder["run"]}, task_vars) | {"holder": holder}
        else:
            host = self._task.delegate_to or task_vars["inventory_hostname"]
            result["msg"] = _explained(holder, host, given.get("path", "/var/lib/ws-fleet/lock"))
        return result

    def _ask(self, given, task_vars):
        return self._execute_module("selfhost.websocket.fleet_lock", module_args=given, task_vars=task_vars)
