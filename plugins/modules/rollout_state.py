#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_state
short_description: Open and close a rollout on a host
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - An open rollout has a mark on the host, so that the next run continues a run that stopped or was interrupted.
  - Close the rollout once every worker of every host is replaced. The module then deletes what is no longer needed.
extends_documentation_fragment:
  - selfhost.websocket.attributes
attributes:
  check_mode:
    support: full
    details:
      - The mark of an older restart stays in check mode, because check mode restarts no worker.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  state:
    description:
      - V(open) records what the rollout needs, unless an open rollout has already done so.
      - V(closed) removes the mark, and deletes generations, releases and virtual environments that are not kept.
    type: str
    choices: [open, closed]
    required: true
  kind:
    description:
      - V(update) records the generation of each worker, for a rollback. An update or a rollback closes it.
      - V(restart) records when the restart was requested. It also closes once every worker was replaced for another reason.
      - V(rollback) records nothing.
    type: str
    choices: [update, restart, rollback]
    required: true
  keep:
    description:
      - With O(state=closed), how many of the newest generations to keep. Generations that a worker has, or had before the last rollout,
        are always kept.
    type: int
    default: 3
seealso:
  - module: selfhost.websocket.rollout_plan
"""

EXAMPLES = r"""
- name: Record the generation of each worker before the first one changes
  selfhost.websocket.rollout_state:
    state: open
    kind: update

- name: Close the rollout
  selfhost.websocket.rollout_state:
    state: closed
    kind: update
    keep: 3
"""

RETURN = r"""
removed:
  description: The deleted paths, below C(/opt/ws-server).
  returned: with O(state=closed)
  type: list
  elements: str
  sample: [generations/0.1.0+8c1f0a5be2d4-5f0c2a91, releases/0.1.0+8c1f0a5be2d4]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance, _rollout_state
from ansible_collections.selfhost.websocket.plugins.module_utils._rollout import restart_is_over
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import SystemdError, show


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["open", "closed"], "required": True},
            "kind": {"type": "str", "choices": ["update", "restart", "rollback"], "required": True},
            "keep": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["keep"] < 1:
        module.fail_json(msg=f"keep is {given['keep']}: set it to a number of generations to keep, 1 or more.")
    try:
        if given["state"] == "open":
            module.exit_json(changed=_open(given["kind"], module.check_mode))
        closed = _close(module, given["kind"])
        removed = _rollout_state.prune(given["keep"], module.check_mode)
        module.exit_json(changed=closed or bool(removed), removed=removed)
    except SystemdError as error:
        module.fail_json(msg=f"The state of the workers cannot be read: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be changed: {error.strerror}. Run this task with become.")


def _open(kind: str, dry: bool) -> bool:
    if kind == "update":
        return _rollout_state.open_change(dry)
    return kind == "restart" and _rollout_state.open_restart(dry)


def _close(module: AnsibleModule, kind: str) -> bool:
    """Whether there was anything to close."""
    closed = kind != "restart" and _rollout_state.close_change(module.check_mode)
    if kind == "restart" or _is_restart_over(module):
        closed = _rollout_state.close_restart(module.check_mode) or closed
    return closed


def _is_restart_over(module: AnsibleModule) -> bool:
    units = [_instance.Instance(name).unit for name in _instance.names()]
    started = [unit.last_started_at for unit in show(module.run_command, units)] if units else []
    return restart_is_over(_rollout_state.restart_asked_at(), started)


if __name__ == "__main__":
    main()
