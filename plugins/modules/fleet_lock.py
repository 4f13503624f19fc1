#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_lock
short_description: Let only one run at a time change a fleet
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Takes or releases a lock that all runs of one fleet share. The lock is a file on one host with the owner, the time and the reason.
  - A run that takes the lock again renews it.
  - If a run on this control machine has failed or was killed without releasing the lock, the next run takes the lock over. Runs on
    other control machines may still be alive, so the module refuses to take their lock, with an explanation, unless O(break) is set.
extends_documentation_fragment:
  - selfhost.websocket.attributes
attributes:
  check_mode:
    support: full
    details:
      - Check mode also refuses a lock that another run has. V(held) then behaves like V(present), because check mode takes no lock.
  diff_mode:
    support: none
  idempotent:
    support: full
  action:
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the controller.
    support: full
options:
  path:
    description:
      - The file of the lock.
    type: path
    default: /var/lib/ws-fleet/lock
  state:
    description:
      - V(present) takes the lock. V(absent) releases it if this run has it.
      - V(held) is for a run that has taken the lock, before each of its steps. It renews the lock, and fails if this run has lost it.
    type: str
    choices: [present, held, absent]
    default: present
  reason:
    description:
      - The purpose of the lock, which other runs report.
    type: str
    default: ''
  break:
    description:
      - Take the lock from any other run. That run stops at its next V(held).
    type: bool
    default: false
  run:
    description:
      - The identity of the run. Set by the action plugin.
    type: str
  owner:
    description:
      - The user and machine of the run. Set by the action plugin.
    type: str
  instead_of:
    description:
      - A run from which the lock may be taken. Set by the action plugin.
    type: str
"""

EXAMPLES = r"""
- name: Take the fleet's lock
  selfhost.websocket.fleet_lock:
    reason: new certificates
  delegate_to: "{{ groups['ws_workers'] | first }}"
  run_once: true

- name: Stop if another run has taken the lock
  selfhost.websocket.fleet_lock:
    state: held
  delegate_to: "{{ groups['ws_workers'] | first }}"
  run_once: true

- name: Release the fleet's lock
  selfhost.websocket.fleet_lock:
    state: absent
  delegate_to: "{{ groups['ws_workers'] | first }}"
  run_once: true
"""

RETURN = r"""
holder:
  description: The run that has the lock, or had it before this run.
  returned: if another run has the lock, or had it
  type: dict
  contains:
    run:
      description: The identity of the run, with its control machine, process and start.
      type: str
    owner:
      description: The user and machine of the run.
      type: str
      sample: alice@laptop
    reason:
      description: The purpose of the run.
      type: str
      sample: rolling update to 0.2.0
    age_s:
      description: How many seconds ago the run took the lock.
      type: float
      sample: 341.2
    silent_s:
      description: How many seconds ago the run last renewed the lock.
      type: float
      sample: 12.9
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils._lock import HeldError, Lock, LockError, LostError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/var/lib/ws-fleet/lock"},
            "state": {"type": "str", "choices": ["present", "held", "absent"], "default": "present"},
            "reason": {"type": "str", "default": ""},
            "break": {"type": "bool", "default": False},
            "run": {"type": "str"},
            "owner": {"type": "str"},
            "instead_of": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        changed = _change(module.params, module.check_mode)
    except HeldError as held:
        module.fail_json(msg="Another run has the lock.", holder=held.holder)
    except LostError:
        module.fail_json(
            msg="This run no longer has the fleet's lock: another run took it and has given it back since. This run changes nothing more. "
            "Run it again if it is still wanted."
        )
    except LockError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed)


def _change(given: dict[str, Any], dry: bool) -> bool:
    lock = Lock(given["path"])
    if given["state"] == "present":
        return lock.acquire(given["run"], given["owner"], given["reason"], given["instead_of"], dry)
    if given["state"] == "absent":
        return lock.release(given["run"], dry)
    lock.keep(given["run"])
    return False


if __name__ == "__main__":
    main()
