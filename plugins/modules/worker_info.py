#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_info
short_description: How the WebSocket workers of a host are
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Asks every worker of the host over its control socket how it is, and systemd about those that do not answer.
  - A worker that hangs does not delay the others. The module takes 10 seconds at most.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
  - selfhost.websocket.workers
options:
  instances:
    description:
      - Which workers, for example V(80). By default all that C(/opt/ws-server/instances) has.
    type: list
    elements: str
seealso:
  - module: selfhost.websocket.worker_drain
  - module: selfhost.websocket.worker_ready
"""

EXAMPLES = r"""
- name: Look at the workers
  selfhost.websocket.worker_info:
  register: host

- name: Go no further unless all of them are ready
  ansible.builtin.assert:
    that: host.ready == host.workers | length

- name: Remember which process worker 80 is
  selfhost.websocket.worker_info:
    instances: ["80"]
  register: before
"""

RETURN = r"""
workers:
  description: The workers, in the order of their names.
  returned: success
  type: list
  elements: dict
  contains:
    instance:
      description: Its name.
      type: str
      sample: "80"
    state:
      description:
        - Of a worker that answers, what it says itself, which is V(starting), V(ready), V(draining), V(drained) or
          V(broker_unavailable).
        - Of one that runs and has no control socket, as releases before it, V(ready) or V(not_ready), as its C(/readyz) says.
        - V(unresponsive) if it has one and does not answer, V(unknown) if it cannot be asked, as RV(workers[].complaint) says.
        - Of one that does not serve, V(starting), V(failed) or V(down), as systemd says, and V(absent) if the host has no such
          worker.
      type: str
      sample: ready
    ready:
      description: Whether RV(workers[].state) is V(ready).
      type: bool
    version:
      description: The version that its process says it is. Where that does not say, the one of the release in its generation.
      type: str
      sample: 0.1.0+8c1f0a5be2d4
    generation:
      description: What its link names, a release with its settings, or V(null) for none.
      type: str
      sample: 0.1.0+8c1f0a5be2d4-5f0c2a91
    generation_before:
      description:
        - What its link named before the rollout that is not closed yet.
        - V(null) without such a rollout, or if the worker is new since.
      type: str
      sample: 0.1.0+8c1f0a5be2d4-5f0c2a91
    linked_at:
      description: When its link was last moved, in Unix time, or V(null) without a link.
      type: float
      sample: 1795529805.03
    serving:
      description: Whether systemd says that it runs, and starts it at boot.
      type: bool
    pid:
      description: Its process, or V(null) for none.
      type: int
      sample: 4242
    started_at:
      description: When that process began, in Unix time.
      type: float
      sample: 1795529806.17
    last_started_at:
      description:
        - When systemd last started a process of it, also one that has ended since, in Unix time and whole seconds.
        - V(null) if it never did. A link that was moved later is one that no process has used yet.
      type: float
      sample: 1795529806.0
    uptime_s:
      description: For how many seconds it has been running.
      type: float
      sample: 86400.5
    connections:
      description: How many clients are connected, or V(null) if the worker does not say.
      type: int
      sample: 312
    rooms:
      description: How many rooms these have joined, or V(null) if the worker does not say.
      type: int
      sample: 17
    drained_by:
      description: Who wants it empty.
      type: list
      elements: str
      sample: [ansible]
    broker:
      description: How its connection to the broker is, or V(null) if the worker does not say.
      type: dict
      sample: {"available": true}
    archive:
      description: How its connection to Postgres is, and what it has yet to move there, or V(null) if it has none or does not say.
      type: dict
      sample: {"available": true, "pending": 0, "lag_s": 0.0}
    complaint:
      description: Why a worker that runs does not say how it is, or V(null).
      type: str
  sample:
    - instance: "80"
      state: ready
      ready: true
      version: 0.1.0+8c1f0a5be2d4
      generation: 0.1.0+8c1f0a5be2d4-5f0c2a91
      generation_before:
      linked_at: 1795529805.03
      serving: true
      pid: 4242
      started_at: 1795529806.17
      last_started_at: 1795529806.0
      uptime_s: 86400.5
      connections: 312
      rooms: 17
      drained_by: []
      broker: {"available": true}
      archive: {"available": true, "pending": 0, "lag_s": 0.0}
      complaint:
ready:
  description: How many of them are ready.
  returned: success
  type: int
  sample: 4
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance
from ansible_collections.selfhost.websocket.plugins.module_utils._survey import survey
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import SystemdError


def main() -> None:
    module = AnsibleModule(
        argument_spec={"instances": {"type": "list", "elements": "str"}},
        supports_check_mode=True,
    )
    names = _instance.names() if module.params["instances"] is None else sorted(set(module.params["instances"]))
    for name in names:
        if not _instance.is_name(name):
            module.fail_json(msg=_instance.not_a_name(name))
    try:
        workers = survey(module.run_command, names)
    except SystemdError as error:
        module.fail_json(msg=f"The state of the workers cannot be read: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}. Run this task with become.")
    module.exit_json(workers=workers, ready=sum(worker["ready"] for worker in workers))


if __name__ == "__main__":
    main()
