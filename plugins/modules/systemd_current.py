#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: systemd_current
short_description: Restart a unit if its files are newer than its process
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Enables a unit and starts it. Restarts it if a file is newer than its main process, which therefore has not read the file.
  - A handler only knows the changes of its own run. This module compares ages, so it also completes a run that was interrupted
    between the change of a file and the restart.
  - If files of the unit itself have changed since systemd loaded them, the module reloads systemd and restarts the unit.
extends_documentation_fragment:
  - selfhost.websocket.attributes
attributes:
  check_mode:
    support: full
    details:
      - For a unit that does not exist, the module predicts a start, because check mode on a bare host does not install the package.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  name:
    description: The unit, with its suffix, for example V(loki.service).
    type: str
    required: true
  files:
    description:
      - The files that the process reads when it starts.
      - A directory counts with everything inside, at any depth.
      - A path that does not exist is ignored.
    type: list
    elements: path
    default: []
notes:
  - The module compares times in microseconds, so a file written in the second of the start causes no second restart.
  - The time of a file is the time of its content (C(mtime)). Files unpacked by C(dpkg) keep the time of their package. For such files,
    list C(/var/lib/dpkg/info/PACKAGE.list).
  - Do not list files that the process itself writes.
seealso:
  - module: ansible.builtin.systemd_service
"""

EXAMPLES = r"""
- name: Restart Loki if its files are newer
  selfhost.websocket.systemd_current:
    name: loki.service
    files:
      - /etc/systemd/system/loki.service.d/ws.conf
      - /etc/loki/ws.yml
      - /var/lib/dpkg/info/loki.list
"""

RETURN = r"""
action:
  description: The action, V(start), V(restart) or V(null). In check mode, the predicted action.
  returned: success
  type: str
  sample: restart
enabled:
  description: Whether the unit had to be enabled.
  returned: success
  type: bool
  sample: false
newer:
  description: The files that are newer than the process.
  returned: success
  type: list
  elements: str
  sample: [/etc/loki/ws.yml]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils._unit_age import (
    Plan,
    SystemdError,
    Unit,
    enabled,
    plan,
    show,
    systemctl,
)


def look(module: AnsibleModule) -> tuple[Unit, Plan]:
    """Return the unit and the plan. In check mode, systemd is only read.

    Raises SystemdError and OSError.
    """
    run, name = module.run_command, module.params["name"]
    unit = show(run, name)
    if not unit.exists:
        if module.check_mode:
            return unit, Plan(reload_systemd=False, enable=True, action="start")
        systemctl(run, "daemon-reload")
        unit = show(run, name)
        if not unit.exists:
            raise SystemdError(f"there is no unit {name}: install its package or its file first")
    return unit, plan(unit, enabled(run, name), module.params["files"])


def carry_out(module: AnsibleModule, wanted: Plan) -> None:
    """Carry out the plan. Raises SystemdError."""
    run, name = module.run_command, module.params["name"]
    if wanted.reload_systemd:
        systemctl(run, "daemon-reload")
    if wanted.enable:
        systemctl(run, "enable", "--", name)
    if wanted.action:
        systemctl(run, wanted.action, "--", name)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        unit, wanted = look(module)
        if not module.check_mode:
            carry_out(module, wanted)
    except (SystemdError, OSError) as error:
        module.fail_json(msg=str(error))
    not_read = [*wanted.newer, *(["the unit's files"] if wanted.reload_systemd else [])]
    before = {"enabled": not wanted.enable, "running": unit.running, "not read": not_read}
    module.exit_json(
        changed=wanted.changes,
        action=wanted.action,
        enabled=wanted.enable,
        newer=list(wanted.newer),
        diff={
            "before": before if wanted.changes else {},
            "after": {"enabled": True, "running": True, "not read": []} if wanted.changes else {},
        },
    )


if __name__ == "__main__":
    main()
