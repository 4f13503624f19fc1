# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's part of the module: identifies this run, and checks whether the holder has
ended.
"""

from __future__ import annotations

import getpass
import multiprocessing
import os
import pathlib
import socket
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

_PROC = pathlib.Path("/proc")


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        given = self._task.args | {"run": this_run(), "owner": f"{_user()}@{socket.gethostname()}"}
        if given.get("state") == "held" and self._task.check_mode:
            given["state"] = "present"  # check mode has not taken the lock, so the run cannot hold it
        wanted = given.get("state", "present") == "present"
        result = self._ask(given, task_vars)
        robbed = result.get("holder")
        if robbed and wanted:
            over = is_over(robbed["run"])
            if over or boolean(given.get("break", False)):
                self._display.display(
                    f"The lock of {robbed['owner']}{_purpose(robbed)} is taken over: that run {'has ended' if over else 'is declared over'}."
                )
                result = self._ask(given | {"instead_of": robbed["run"]}, task_vars)
        # The holder of the second answer counts: another run may have taken the lock meanwhile.
        if result.get("holder"):
            lock = f"lock {given.get('path', '/var/lib/ws-fleet/lock')} on {self._task.delegate_to or task_vars['inventory_hostname']}"
            result.pop("exception", None)  # ansible-core 2.19 would show the module's own message first
            result["msg"] = (_refused if wanted else _lost)(result["holder"], lock)
        elif robbed:
            result["holder"] = robbed
        return result

    def _ask(self, given: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            "selfhost.websocket.fleet_lock", module_args=given, task_vars=task_vars
        )
        return result


# The identity of a run: its machine, boot, process namespace, process and start time. No two runs
# share all of them. "?" stands for a part that is unknown without /proc.


def this_run() -> str:
    # A task runs in a child of the run's process. If that process was killed, the child has another
    # parent.
    parent = multiprocessing.parent_process()
    pid = (parent.pid if parent else None) or os.getpid()
    status = _status(pid)
    return " ".join([_machine(), _boot(), _namespace(), str(pid), status[1] if status else "?"])


def is_over(run: str) -> bool:
    """Whether a run is known to have ended. This is known only for runs of this machine."""
    parts = run.split(" ")
    if len(parts) != 5 or not parts[3].isdigit() or parts[0] != _machine():
        return False
    boot, namespace, pid, started = parts[1:]
    if "?" in (boot, _boot()):
        return False
    return boot != _boot() or (namespace == _namespace() and not _lives(int(pid), started))


def _machine() -> str:
    """The machine id. Copies of a machine share it, and containers often have none."""
    return f"{socket.gethostname()}/{_text(pathlib.Path('/etc/machine-id'))}"


def _boot() -> str:
    return _text(_PROC / "sys/kernel/random/boot_id")


def _namespace() -> str:
    """The PID namespace, because each container numbers its own processes."""
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return "?"


def _lives(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # /proc may hide the processes of another user
    status = _status(pid)
    return status is None or (status[0] != "Z" and status[1] == started)


def _status(pid: int) -> tuple[str, str] | None:
    """The state of a process and its start time, in the kernel's ticks since boot."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "?"
    except OSError:
        return "?"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return str(os.getuid())


# Messages.


def _refused(holder: dict[str, Any], lock: str) -> str:
    return (
        f"{holder['owner']} is changing this fleet{_purpose(holder)}. That run began {_duration(holder['age_s'])} ago, and it last renewed the lock "
        f"{_duration(holder['silent_s'])} ago ({lock}). Wait until it is done. If it is over, because its machine or its terminal was lost, "
        "run this playbook again with -e ws_lock_break=true (in a play of your own, break: true): it finishes the interrupted change."
    )


def _lost(holder: dict[str, Any], lock: str) -> str:
    return (
        f"{holder['owner']} has taken the lock of the fleet from this run {_duration(holder['age_s'])} ago{_purpose(holder)}: {lock}. "
        "This run changes nothing more. Wait until the other run is done, then run this playbook again if it is still wanted."
    )


def _purpose(holder: dict[str, Any]) -> str:
    return f" ({holder['reason']})" if holder["reason"] else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
