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
  - Takes, or gives back, a lock that all runs of one fleet share. It is a file on one host, which says whose it is, since when and why.
  - A run that takes the lock again only gives a sign of life.
  - The lock of a run on this control machine that has ended without giving it back, because it failed or was killed, is taken
    over. Whether a run on another control machine has ended cannot be known from here, so its lock is refused with an explanation,
    until O(break) says that it has.
extends_documentation_fragment:
  - selfhost.websocket.attributes
attributes:
  check_mode:
    support: full
    details:
      - A lock that somebody else has is refused in check mode, too. What V(held) asks for is then what V(present) does, as nothing was taken.
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
      - The file.
    type: path
    default: /var/lib/ws-fleet/lock
  state:
    description:
      - V(present) takes the lock, V(absent) gives it back if it is this run's.
      - V(held) is for a run that has taken it, before each of its steps. It gives a sign of life, and fails if the lock is this run's no more.
    type: str
    choices: [present, held, absent]
    default: present
  reason:
    description:
      - What the lock is for, which others are told.
    type: str
    default: ''
  break:
    description:
      - Take the lock from whoever has it. That run stops where it would next be V(held).
    type: bool
    default: false
  run:
    description:
      - Names the run. Set by the action plugin.
    type: str
  owner:
    description:
      - Who runs it, and where. Set by the action plugin.
    type: str
  instead_of:
    description:
      - A run from which the lock may be taken. Set by the action plugin.
    type: str
"""

EXAMPLES = r"""
- name: Nobody else changes the fleet meanwhile
  selfhost.websocket.fleet_lock:
    reason: new certificates
  delegate_to: "{{ groups['ws_workers'] | first }}"
  run_once: true

- name: Go no further if somebody has taken it from this run
  selfhost.websocket.fleet_lock:
    state: held
  delegate_to: "{{ groups['ws_workers'] | first }}"
  run_once: true

- name: Others may go on
  selfhost.websocket.fleet_lock:
    state: absent
  delegate_to: "{{ groups['ws_workers'] | first }}"
  run_once: true
"""

RETURN = r"""
holder:
  description: Who has the lock, or had it and was in the way.
  returned: when somebody else has it, or had it
  type: dict
  contains:
    run:
      description: Names the run, with its control machine, process and start.
      type: str
    owner:
      description: Who runs it, and where.
      type: str
      sample: alice@laptop
    reason:
      description: What it is for.
      type: str
      sample: rolling update to 0.2.0
    age_s:
      description: How many seconds ago it was taken.
      type: float
      sample: 341.2
    silent_s:
      description: How many seconds ago the last sign of that run was.
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
