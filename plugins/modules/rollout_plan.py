#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_plan
short_description: Plan which workers of a host a rollout replaces
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Compares the current generation of each worker with the wanted one. Returns the workers to replace, their generations, and the order.
  - Workers that serve no client come first, because replacing them costs nothing and the other workers wait for them.
  - Changes nothing. The plan completes an interrupted run.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
  - selfhost.websocket.workers
  - selfhost.websocket.workers.rollout
attributes:
  check_mode:
    details:
      - RV(pending) also contains new and idle workers. A run starts them before it replaces the first worker, and check mode does not.
options:
  kind:
    description:
      - V(update) gives every worker of O(instances) the generation O(generation).
      - V(restart) restarts every worker that started before the restart was requested, see M(selfhost.websocket.rollout_state).
      - V(rollback) returns every worker to its generation from before the last rollout.
    type: str
    choices: [update, restart, rollback]
    required: true
  instances:
    description:
      - The wanted workers of the host, for example V(80). Required with O(kind=update).
    type: list
    elements: str
  generation:
    description:
      - The wanted generation, a directory in C(/opt/ws-server/generations). Required with O(kind=update).
    type: str
seealso:
  - module: selfhost.websocket.rollout_gate
  - module: selfhost.websocket.rollout_state
  - module: selfhost.websocket.worker_info
"""

EXAMPLES = r"""
- name: Plan the update
  selfhost.websocket.rollout_plan:
    kind: update
    instances: ["80", "81", "82", "83"]
    generation: 0.2.0+c4d1f0a5be2d-77aa01c9
    endpoints: [10.0.0.1:8080, 10.0.0.1:8081, 10.0.0.1:8082, 10.0.0.1:8083]
  register: plan

- name: Show the workers to replace
  ansible.builtin.debug:
    msg: "{{ plan.turns | map(attribute='instance') | join(', ') }}"
"""

RETURN = r"""
kind:
  description: The option O(kind).
  returned: success
  type: str
  sample: update
new:
  description: Wanted workers that do not exist yet.
  returned: success
  type: list
  elements: str
  sample: ["83"]
idle:
  description: Workers that have the generation, but do not run or would not start after a reboot.
  returned: success
  type: list
  elements: str
  sample: []
surplus:
  description: Existing workers that are not wanted.
  returned: success
  type: list
  elements: str
  sample: []
turns:
  description: Workers to replace, in this order.
  returned: success
  type: list
  elements: dict
  contains:
    instance:
      description: The worker.
      type: str
    generation:
      description: The generation to install.
      type: str
    fallback:
      description: The generation to return to if the new one does not serve.
      type: str
  sample:
    - instance: "80"
      generation: 0.2.0+c4d1f0a5be2d-77aa01c9
      fallback: 0.1.0+8c1f0a5be2d4-5f0c2a91
pending:
  description:
    - The workers of O(endpoints) that are not ready and that this rollout repairs. Workers of other hosts do not wait for them.
  returned: success
  type: list
  elements: str
  sample: ["10.0.0.1:8081"]
abandoned:
  description: Workers that an interrupted run drained with the name O(by), and that this plan does not replace.
  returned: success
  type: list
  elements: str
  sample: []
recorded:
  description: Whether the host has a record of an earlier rollout that a rollback can undo.
  returned: success
  type: bool
  sample: true
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance, _rollout, _rollout_state
from ansible_collections.selfhost.websocket.plugins.module_utils._rollout_gate import linked
from ansible_collections.selfhost.websocket.plugins.module_utils._survey import survey
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import SystemdError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "kind": {"type": "str", "choices": ["update", "restart", "rollback"], "required": True},
            "instances": {"type": "list", "elements": "str"},
            "generation": {"type": "str"},
            "endpoints": {"type": "list", "elements": "str", "default": []},
            "by": {"type": "str", "default": "rollout"},
        },
        required_if=[("kind", "update", ("instances", "generation"))],
        supports_check_mode=True,
    )
    given = module.params
    for name in given["instances"] or []:
        if not _instance.is_name(name):
            module.fail_json(msg=_instance.not_a_name(name))
    try:
        before = _instance.before()
        workers = linked(survey(module.run_command, _instance.names()))
    except SystemdError as error:
        module.fail_json(msg=f"The state of the workers cannot be read: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}. Run this task with become.")
    plan = _plan(given, workers, before)
    pending = _rollout.pending(plan, workers, module.check_mode)
    endpoints = [_rollout.endpoint(instance, given["endpoints"]) for instance in pending]
    module.exit_json(
        **asdict(plan),
        kind=given["kind"],
        pending=[endpoint for endpoint in endpoints if endpoint],
        abandoned=_rollout.abandoned(plan, workers, given["by"]),
        recorded=bool(before),
    )


def _plan(given: dict[str, Any], workers: list[_rollout.Worker], before: dict[str, str]) -> _rollout.Plan:
    if given["kind"] == "update":
        return _rollout.plan_update(workers, given["instances"], given["generation"])
    if given["kind"] == "restart":
        return _rollout.plan_restart(workers, _rollout_state.restart_asked_at())
    return _rollout.plan_rollback(workers, before)


if __name__ == "__main__":
    main()
