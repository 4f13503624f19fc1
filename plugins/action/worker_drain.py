# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's part of the module: waits for a long drain in slices, and reports progress."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        so_far: dict[str, Any] | None = {}
        while True:
            given = self._task.args | {"so_far": so_far}
            result: dict[str, Any] = self._execute_module(
                "selfhost.websocket.worker_drain", module_args=given, task_vars=task_vars
            )
            so_far = result.pop("so_far", None)
            if so_far is None:
                return result
            host = self._task.delegate_to or (task_vars or {})["inventory_hostname"]
            self._display.display(f"Worker {result['instance']} of {host}: {_progress(result)}.")


def _progress(result: dict[str, Any]) -> str:
    before, left, seconds = (result[key] for key in ("connections_before", "connections_after", "seconds"))
    progress = f"{left:,} of {before:,} connections left, after {seconds:.0f} s"
    if left >= before:  # no client has left yet
        return progress
    return f"{progress}, about {seconds * left / (before - left):.0f} s to go"
