#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_drain
short_description: Send the clients of a WebSocket worker away, or let them in again
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - A drained worker lets no client in, has asked those that it had to connect elsewhere, and goes on running.
    The edge passes over it, and nothing is lost when it is replaced then.
  - Drains are in somebody's name, and a worker stays empty until everybody who drained it has taken that back. So this module
    can join an operator's drain (C(ws-server ctl drain)), and never ends it.
  - To drain again in the same name is to join that drain, whether it is under way or done. So a play that was interrupted can simply
    be run again.
extends_documentation_fragment:
  - selfhost.websocket.attributes
attributes:
  check_mode:
    support: full
    details:
      - Returns what would be, supposing that all clients leave.
  diff_mode:
    support: full
  idempotent:
    support: full
  action:
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the controller.
    support: full
    details:
      - While a drain takes longer, it displays every few seconds how many connections are left, and about how many seconds to go.
  async:
    description: Supports being used with the C(async) keyword.
    support: none
options:
  instance:
    description:
      - The worker, for example V(80).
    type: str
    required: true
  state:
    description:
      - V(drained) waits until nobody is connected any more. The worker must report then that it is not ready.
      - V(undrained) takes the drain in the name O(by) back, and does not wait. Drains in other names stay, as RV(drained_by) says.
    type: str
    choices: [drained, undrained]
    default: drained
  by:
    description:
      - In whose name, at most 128 characters.
    type: str
    default: ansible
  window_s:
    description:
      - Over how many seconds to spread the clients, at most 600. By default as the worker's own settings say.
      - A drain that is under way keeps its window.
    type: float
  timeout_s:
    description:
      - How many seconds to wait until nobody is connected. Must leave room for O(window_s), and a few seconds for farewells.
      - A worker that hangs can take 5 seconds more, since that long it may take to answer.
    type: float
    default: 60
  on_timeout:
    description:
      - What to do about clients that are still there after O(timeout_s).
      - V(fail) fails. The worker goes on draining in the name O(by).
      - V(force) sends them away at once, in 15 seconds at most, and does not fail. How many these were is in RV(forced).
        Where somebody else is draining the worker too, it goes on at their pace.
    type: str
    choices: [fail, force]
    default: fail
  socket:
    description:
      - The worker's control socket. By default C(/run/ws-server/INSTANCE/control.sock).
    type: path
  so_far:
    description:
      - How far the drain is, which is then waited for only some seconds more. Set by the action plugin.
    type: dict
notes:
  - A worker that does not run has nobody to send away. That is no error, so that it can be replaced, and RV(state) tells.
    A misspelt O(instance) is V(absent), too.
  - A worker of a release before the control socket cannot be drained like this, which is an error.
  - The control socket is for root and the workers' own group, so this usually needs C(become).
seealso:
  - module: selfhost.websocket.worker_info
  - module: selfhost.websocket.worker_ready
"""

EXAMPLES = r"""
- name: Drain worker 80 over ten seconds, and be done with it after a minute
  selfhost.websocket.worker_drain:
    instance: "80"
    window_s: 10
    timeout_s: 60
    on_timeout: force
  register: drain

- name: Say what it took
  ansible.builtin.debug:
    msg: "{{ drain.closed }} clients moved in {{ drain.seconds }} s"

- name: Let clients in again
  selfhost.websocket.worker_drain:
    instance: "80"
    state: undrained
"""

RETURN = r"""
msg:
  description: What came of it, one sentence.
  returned: always
  type: str
  sample: Worker 80 is drained of 312 connections after 6.2 s.
instance:
  description: The worker.
  returned: always
  type: str
  sample: "80"
state:
  description:
    - How the worker is now, as it says itself. After a success with O(state=drained) that is V(drained), or V(draining) if the last
      farewells are still on their way.
    - V(down) if it does not run, V(absent) if this host has no such worker, V(unknown) if it could not be asked.
  returned: always
  type: str
  sample: drained
drained_by:
  description: Who wants it empty now, in the order in which they asked.
  returned: always
  type: list
  elements: str
  sample: [ansible]
connections_before:
  description: How many clients were connected.
  returned: always
  type: int
  sample: 312
connections_after:
  description: How many are left.
  returned: always
  type: int
  sample: 0
closed:
  description: How many left in time.
  returned: always
  type: int
  sample: 312
forced:
  description: How many were sent away at once, after O(timeout_s).
  returned: always
  type: int
  sample: 0
seconds:
  description: How long it took.
  returned: always
  type: float
  sample: 6.2
timeline:
  description: What the worker said meanwhile, each time that it changed.
  returned: always
  type: list
  elements: dict
  contains:
    seconds:
      description: When, since the beginning.
      type: float
    connections:
      description: How many clients were connected.
      type: int
    state:
      description: As RV(state).
      type: str
  sample:
    - {"seconds": 0.01, "connections": 312, "state": "draining"}
    - {"seconds": 6.2, "connections": 0, "state": "drained"}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance
from ansible_collections.selfhost.websocket.plugins.module_utils._draining import Draining
from ansible_collections.selfhost.websocket.plugins.module_utils._worker import Worker, WorkerError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "undrained"], "default": "drained"},
            "by": {"type": "str", "default": "ansible"},
            "window_s": {"type": "float"},
            "timeout_s": {"type": "float", "default": 60},
            "on_timeout": {"type": "str", "choices": ["fail", "force"], "default": "fail"},
            "socket": {"type": "path"},
            "so_far": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    given = module.params
    if not _instance.is_name(given["instance"]):
        module.fail_json(msg=_instance.not_a_name(given["instance"]))
    if not 1 <= len(given["by"]) <= 128:
        module.fail_json(msg="by: a name of 1 to 128 characters.")
    if given["window_s"] is not None and not 0 <= given["window_s"] <= 600:
        module.fail_json(msg=f"window_s is {given['window_s']:g}: set it to a number of seconds from 0 to 600.")

    worker = Worker(module.run_command, given["instance"], given["socket"])
    draining = Draining(worker, given["by"], given["timeout_s"], so_far=given["so_far"])
    force = given["on_timeout"] == "force"
    try:
        if given["so_far"]:
            draining.go_on(force)
        else:
            draining.look()
            if given["state"] == "drained" and module.check_mode:
                draining.foresee_drain()
            elif given["state"] == "drained":
                draining.drain(given["window_s"], force)
            elif module.check_mode:
                draining.foresee_undrain()
            else:
                draining.undrain()
    except WorkerError as error:
        module.fail_json(msg=str(error), changed=draining.changed, **draining.result())
    module.exit_json(
        msg=f"Worker {worker.name} {draining.message}.",
        changed=draining.changed,
        diff=draining.difference(),
        **draining.result(),
        **({"so_far": draining.so_far} if draining.so_far else {}),
    )


if __name__ == "__main__":
    main()
