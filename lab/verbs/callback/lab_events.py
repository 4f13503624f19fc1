# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes each play, task and result as a JSON line, for the verbs' progress display."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: lab_events
type: notification
short_description: Progress of a playbook as JSON lines
description:
  - Appends an object for each play, task and result to the file that E(LAB_EVENTS) names.
  - The verbs of the lab read that file while the playbook runs.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "lab_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._events = open(os.environ["LAB_EVENTS"], "a", buffering=1)  # noqa: PTH123, SIM115 (open for the whole run)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._write(event="play", name=play.get_name().strip())

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 (Ansible's signature)
        self._write(event="task", name=task.get_name().strip())

    v2_playbook_on_handler_task_start = v2_playbook_on_task_start

    def v2_playbook_on_cleanup_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, False)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._result(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._result(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._result(result, "unreachable")

    def _result(self, result: Any, status: str) -> None:
        said = result.result.get("msg") if result.task.action.endswith("debug") else None
        self._write(
            event="result", host=result.host.get_name(), status=status, said=said if isinstance(said, str) else ""
        )

    def _write(self, **event: str) -> None:
        self._events.write(json.dumps(event) + "\n")
