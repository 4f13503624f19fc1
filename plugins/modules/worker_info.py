#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_info
short_description: Read the state of the WebSocket workers of a host
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Asks every worker of the host for its state over its control socket, and systemd about workers that do not answer.
  - A worker that hangs does not delay the others. The module takes at most 10 seconds.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
  - selfhost.websocket.workers
options:
  instances:
    description:
      - The workers to ask, for example V(80). By default all workers in C(/opt/ws-server/instances).
    type: list
    elements: str
seealso:
  - module: selfhost.websocket.worker_drain
  - module: selfhost.websocket.worker_ready
"""

EXAMPLES = r"""
- name: Read the state of the workers
  selfhost.websocket.worker_info:
  register: host

- name: Stop unless all workers are ready
  ansible.builtin.assert:
    that: host.ready == host.workers | length

- name: Record the process of worker 80
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
      description: The instance name of the worker.
      type: str
      sample: "80"
    state:
      description:
        - The state that the worker reports, V(starting), V(ready), V(draining), V(drained) or V(broker_unavailable).
        - For a running worker of an early release without a control socket, V(ready) or V(not_ready), from its C(/readyz).
        - V(unresponsive) if the worker does not answer at its control socket, V(unknown) if it cannot be asked, see
          RV(workers[].complaint).
        - For a worker that does not serve, V(starting), V(failed) or V(down) from systemd, and V(absent) if the host has no such worker.
      type: str
      sample: ready
    ready:
      description: Whether RV(workers[].state) is V(ready).
      type: bool
    version:
      description: The version that the process reports, or else the version of the release in its generation.
      type: str
      sample: 0.1.0+8c1f0a5be2d4
    generation:
      description: The generation that the worker's link names, a release with its settings, or V(null) without a link.
      type: str
      sample: 0.1.0+8c1f0a5be2d4-5f0c2a91
    generation_before:
      description:
        - The generation before the open rollout.
        - V(null) without an open rollout, or if the rollout created the worker.
      type: str
      sample: 0.1.0+8c1f0a5be2d4-5f0c2a91
    linked_at:
      description: The Unix time when the link was last moved, or V(null) without a link.
      type: float
      sample: 1795529805.03
    serving:
      description: Whether systemd runs the worker now and starts it at boot.
      type: bool
    pid:
      description: The process of the worker, or V(null) without a process.
      type: int
      sample: 4242
    started_at:
      description: The Unix time when that process started.
      type: float
      sample: 1795529806.17
    last_started_at:
      description:
        - The Unix time, in whole seconds, when systemd last started a process of the worker, even if that process has ended.
        - V(null) if systemd never did. If the link was moved later, no process has used it yet.
      type: float
      sample: 1795529806.0
    uptime_s:
      description: For how many seconds the process has been running.
      type: float
      sample: 86400.5
    connections:
      description: How many clients are connected, or V(null) if the worker does not report it.
      type: int
      sample: 312
    rooms:
      description: How many rooms these clients have joined, or V(null) if the worker does not report it.
      type: int
      sample: 17
    drained_by:
      description: The names of the worker's drains.
      type: list
      elements: str
      sample: [ansible]
    broker:
      description: The state of its connection to the broker, or V(null) if the worker does not report it.
      type: dict
      sample: {"available": true}
    archive:
      description: The state of its connection to Postgres, and the messages that wait for Postgres, or V(null) without an archive or report.
      type: dict
      sample: {"available": true, "pending": 0, "lag_s": 0.0}
    complaint:
      description: Why a running worker does not report its state, or V(null).
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
  description: How many workers are ready.
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
