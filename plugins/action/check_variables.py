# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Passes the variables of the host to the checks.

Runs entirely on the control machine, and connects to no host.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.action import ActionBase

from ansible_collections.selfhost.websocket.plugins.module_utils._checks import RuleError, Settings, find_faults
from ansible_collections.selfhost.websocket.plugins.module_utils._rules import CHECKS
from ansible_collections.selfhost.websocket.plugins.module_utils._topology import FROM_INVENTORY

_COLLECTION = pathlib.Path(__file__).resolve().parents[2]
_ROLES = _COLLECTION / "roles"
_FLEET = _COLLECTION / "playbooks/vars/fleet.yml"


class ActionModule(ActionBase):
    """Fails with one sentence for each fault."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Applies the rules, and fails with all faults at once."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _validation, given = self.validate_argument_spec(
            {"rules": {"type": "list", "elements": "dict", "required": True}}
        )
        try:
            faults = find_faults(given["rules"], self._settings(variables), CHECKS)
        except RuleError as error:
            raise AnsibleActionFail(str(error)) from error
        result |= {"changed": False, "faults": faults}
        if faults:
            result |= {"failed": True, "msg": "\n".join(faults)}
        return result

    def _settings(self, variables: dict[str, Any]) -> Settings:
        def value_of(name: str) -> Any:
            return self._templar.template(variables[name])

        facts = variables.get("ansible_facts", {})
        return Settings(
            value_of,
            host=str(variables["inventory_hostname"]),
            ipv4=facts.get("all_ipv4_addresses", []),
            ipv6=facts.get("all_ipv6_addresses", []),
            names=variables,
            overridden=overridden(variables),
            documented=documented,
            sha256=sha256,
        )


def documented() -> set[str]:
    """Returns the variables that the roles' argument_specs.yml describe."""
    return {
        name
        for path in _ROLES.glob("*/meta/argument_specs.yml")
        for entry in yaml_load(path.read_bytes())["argument_specs"].values()
        for name in entry.get("options", {})
    }


def overridden(variables: Mapping[str, Any]) -> set[str]:
    """Returns the variables of the inventory that fleet.yml overrides.

    A value of -e overrides both.
    """
    inventory = variables.get("hostvars", {}).get(variables["inventory_hostname"], {})
    return {
        name
        for name, value in yaml_load(_FLEET.read_bytes()).items()
        if name in inventory and variables.get(name) == value and name not in FROM_INVENTORY
    }


def sha256(path: str) -> str | None:
    """Returns the checksum of a file on the control machine, or None if the file does not exist."""
    try:
        return hashlib.sha256(pathlib.Path(path).expanduser().read_bytes()).hexdigest()
    except OSError:
        return None
