#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_drain
short_description: Drain a WebSocket worker, or let clients in again
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - A drained worker keeps running, refuses new clients, and has asked its clients to reconnect elsewhere. The edge skips this worker,
    so replacing it loses nothing.
  - Each drain has a name, and a worker stays drained until every name is removed. So this module can join an operator's drain
    (C(ws-server ctl drain)), and never ends it.
  - A second drain with the same name joins the first one, whether it is running or done. So an interrupted play can be run again.
extends_documentation_fragment:
  - selfhost.websocket.attributes
attributes:
  check_mode:
    support: full
    details:
      - Returns the result that a run would have if all clients leave.
  diff_mode:
    support: full
  idempotent:
    support: full
  action:
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the controller.
    support: full
    details:
      - During a longer drain, the plugin reports every few seconds how many connections are left, and estimates the remaining time.
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
      - V(drained) waits until no client is connected. The worker must then report that it is not ready.
      - V(undrained) ends the drain with the name O(by), and does not wait. Drains with other names stay, see RV(drained_by).
    type: str
    choices: [drained, undrained]
    default: drained
  by:
    description:
      - The name of the drain, at most 128 characters.
    type: str
    default: ansible
  window_s:
    description:
      - The number of seconds over which clients are asked to leave, at most 600. By default the worker's own setting.
      - A running drain keeps its window.
    type: float
  timeout_s:
    description:
      - How many seconds to wait until no client is connected. Must be longer than O(window_s), by a few seconds for closing handshakes.
      - A worker that hangs can take 5 seconds more, because it may answer that late.
    type: float
    default: 60
  on_timeout:
    description:
      - What to do if clients are still connected after O(timeout_s).
      - V(fail) fails. The worker continues to drain with the name O(by).
      - V(force) disconnects these clients at once, within 15 seconds, and does not fail. RV(forced) has their number. If the worker is also
        drained by another name, the drain continues at its earlier pace.
    type: str
    choices: [fail, force]
    default: fail
  socket:
    description:
      - The worker's control socket. By default C(/run/ws-server/INSTANCE/control.sock).
    type: path
  so_far:
    description:
      - The progress of the drain. With this option, the module waits only some seconds. Set by the action plugin.
    type: dict
notes:
  - A worker that does not run has no clients. This is not an error, so that the worker can be replaced. RV(state) shows it. A misspelt
    O(instance) is also V(absent).
  - A worker of an early release without a control socket cannot be drained by this module, which is an error.
  - Only root and the workers' own group can use the control socket, so this usually needs C(become).
seealso:
  - module: selfhost.websocket.worker_info
  - module: selfhost.websocket.worker_ready
"""

EXAMPLES = r"""
- name: Drain worker 80 over ten seconds, within a minute
  selfhost.websocket.worker_drain:
    instance: "80"
    window_s: 10
    timeout_s: 60
    on_timeout: force
  register: drain

- name: Show the result
  ansible.builtin.debug:
    msg: "{{ drain.closed }} clients moved in {{ drain.seconds }} s"

- name: Let clients in again
  selfhost.websocket.worker_drain:
    instance: "80"
    state: undrained
"""

RETURN = r"""
msg:
  description: The result, in one sentence.
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
    - The state that the worker reports now. After a success with O(state=drained) this is V(drained), or V(draining) during the last
      closing handshakes.
    - V(down) if the worker does not run, V(absent) if this host has no such worker, V(unknown) if it could not be asked.
  returned: always
  type: str
  sample: drained
drained_by:
  description: The names of the worker's drains, oldest first.
  returned: always
  type: list
  elements: str
  sample: [ansible]
connections_before:
  description: How many clients were connected at the beginning.
  returned: always
  type: int
  sample: 312
connections_after:
  description: How many clients are still connected.
  returned: always
  type: int
  sample: 0
closed:
  description: How many clients left in time.
  returned: always
  type: int
  sample: 312
forced:
  description: How many clients were disconnected by force, after O(timeout_s).
  returned: always
  type: int
  sample: 0
seconds:
  description: The seconds that the module took.
  returned: always
  type: float
  sample: 6.2
timeline:
  description: The changes that the worker reported meanwhile.
  returned: always
  type: list
  elements: dict
  contains:
    seconds:
      description: Seconds since the beginning.
      type: float
    connections:
      description: How many clients were connected.
      type: int
    state:
      description: The state, with the values of RV(state).
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
