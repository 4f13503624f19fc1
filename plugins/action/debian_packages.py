# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Installs Debian packages. Runs apt only if a package is missing, and refreshes its lists once."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.selfhost.websocket.plugins.action.fleet_lock import this_run

# The first boot of a cloud host runs apt for minutes.
_LOCK = {"lock_timeout": 600}
_REFRESH = {"update_cache": True, "cache_valid_time": 3600, "update_cache_retries": 3}
_REFUSED = "debian_packages_lists_refused"  # a fact of the host: the run that could not refresh its lists


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _valid, given = self.validate_argument_spec(
            {
                "name": {"type": "list", "elements": "str"},
                "deb": {"type": "path"},
                "install_recommends": {"type": "bool"},
            },
            mutually_exclusive=[["name", "deb"]],
            required_one_of=[["name", "deb"]],
        )
        if given["deb"]:
            wanted = {"deb": given["deb"], "allow_downgrade": True}
        else:
            missing = self._missing(given["name"])
            if not missing:
                return {"changed": False}
            wanted = {"name": missing}

        facts = {}
        complaint = None
        if task_vars.get("ansible_facts", {}).get(_REFUSED) != this_run():
            complaint = self._refresh(task_vars)
        if complaint:
            facts = {_REFUSED: this_run()}
        result = self._apt(wanted | {"install_recommends": given["install_recommends"]}, task_vars)
        if complaint and result.get("failed"):
            result["msg"] = f"{result['msg']} Before this, apt could not refresh its lists: {complaint}"
        elif complaint:
            self._display.warning(
                f"{task_vars['inventory_hostname']} could not refresh apt's lists, and installed from those it has: {complaint}"
            )
        return result | ({"ansible_facts": facts} if facts else {})

    def _missing(self, names: list[str]) -> list[str]:
        query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n", *names]
        done = self._low_level_execute_command(shlex.join(query))
        if done["rc"] > 1:  # 1: dpkg does not know all of them
            raise AnsibleActionFail(f"dpkg-query failed: {done['stderr'].strip() or done['stdout'].strip()}")
        installed = {line.removeprefix("installed ") for line in done["stdout"].splitlines()}
        return [name for name in names if name not in installed]

    def _refresh(self, task_vars: dict[str, Any]) -> str | None:
        """Refresh apt's lists. Return the reason for a failure, or None.

        Check mode refreshes, too: without lists, apt cannot tell what it would install.
        """
        check_mode, self._task.check_mode = self._task.check_mode, False
        try:
            result = self._apt(_REFRESH, task_vars)
        finally:
            self._task.check_mode = check_mode
        return str(result["msg"]) if result.get("failed") else None

    def _apt(self, options: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.apt", module_args=options | _LOCK, task_vars=task_vars
        )
        return result
