#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_gate
short_description: Fail unless a worker may be replaced now
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - A worker may be replaced if no operator has drained a worker of its host, and all other workers of the fleet are ready to take its
    clients.
  - Waits up to 20 seconds for the other workers of the host, and then up to 10 seconds for the workers of other hosts, which it queries
    all at once. A crashed worker is ready again within that time.
  - A worker that is not ready serves no client, so the module does not query the workers of other hosts.
  - Changes nothing.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
  - selfhost.websocket.workers
  - selfhost.websocket.workers.rollout
attributes:
  check_mode:
    details:
      - Checks the workers of the host once, and assumes that the workers of O(pending) will be ready.
options:
  host:
    description:
      - The name of this host in messages.
    type: str
    required: true
  instance:
    description:
      - The worker to replace, for example V(80).
      - Without this option, the module checks whether the whole host may leave the fleet. Only the workers of other hosts count then.
    type: str
  fleet:
    description:
      - All workers of the fleet, each as C(ADDRESS:PORT). The module queries the workers of other hosts at C(/readyz).
    type: list
    elements: str
    default: []
  pending:
    description:
      - The workers of O(fleet) that this rollout repairs, on any host (RV(selfhost.websocket.rollout_plan#module:pending)). The module does
        not wait for them, because they would wait in turn.
    type: list
    elements: str
    default: []
seealso:
  - module: selfhost.websocket.rollout_plan
  - module: selfhost.websocket.worker_drain
  - module: selfhost.websocket.worker_info
"""

EXAMPLES = r"""
- name: Stop unless worker 80 may be replaced
  selfhost.websocket.rollout_gate:
    host: "{{ inventory_hostname }}"
    instance: "80"
    fleet: [10.0.0.1:8080, 10.0.0.1:8081, 10.0.0.2:8080, 10.0.0.2:8081]
    endpoints: [10.0.0.1:8080, 10.0.0.1:8081]
  register: gate

- name: Show how many clients are affected
  ansible.builtin.debug:
    msg: "{{ gate.worker.connections }}"
"""

RETURN = r"""
worker:
  description: The worker O(instance), as RV(selfhost.websocket.worker_info#module:workers[]) describes it.
  returned: success, with O(instance)
  type: dict
  sample: {"instance": "80", "state": "ready", "ready": true, "connections": 312, "pid": 4242}
workers:
  description: All workers of the host, as RV(selfhost.websocket.worker_info#module:workers) describes them.
  returned: success
  type: list
  elements: dict
  sample: [{"instance": "80", "state": "ready", "ready": true, "connections": 312, "pid": 4242}]
missing:
  description: The workers that are not ready, with the reasons.
  returned: if other workers are not ready
  type: list
  elements: str
  sample: ["81 of one (failed)", "10.0.0.2:8080 (503 not ready: draining)"]
"""

import shlex
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance, _readyz, _rollout
from ansible_collections.selfhost.websocket.plugins.module_utils._rollout_gate import Gate, linked
from ansible_collections.selfhost.websocket.plugins.module_utils._survey import survey
from ansible_collections.selfhost.websocket.plugins.module_utils._unit import SystemdError

_ANSWER_S = 3.0


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "instance": {"type": "str"},
            "by": {"type": "str", "default": "rollout"},
            "fleet": {"type": "list", "elements": "str", "default": []},
            "endpoints": {"type": "list", "elements": "str", "default": []},
            "pending": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["instance"] is not None and not _instance.is_name(given["instance"]):
        module.fail_json(msg=_instance.not_a_name(given["instance"]))
    gate = Gate(
        lambda: survey(module.run_command, _instance.names()),
        lambda endpoint: _readyz.ask(f"http://{endpoint}/readyz", _ANSWER_S),
    )
    try:
        if given["instance"] is None:
            _host_may_leave(module, gate, given)
        else:
            _worker_may_be_replaced(module, gate, given)
    except SystemdError as error:
        module.fail_json(msg=f"The state of the workers of {given['host']} cannot be read: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}. Run this task with become.")


def _host_may_leave(module: AnsibleModule, gate: Gate, given: dict[str, Any]) -> None:
    found = gate.survey()
    if any(facts["ready"] for facts in found):
        missing = _missing_elsewhere(gate, given)
        if missing:
            module.fail_json(
                msg=f"{given['host']} stays in the fleet: its clients need the workers of the other hosts, and these are "
                f"not ready: {', '.join(missing)}. {_REMEDY}",
                missing=missing,
            )
    module.exit_json(workers=found)


def _worker_may_be_replaced(module: AnsibleModule, gate: Gate, given: dict[str, Any]) -> None:
    instance, host = given["instance"], given["host"]
    found = gate.look(instance, given["by"], once=module.check_mode)
    workers = linked(found)
    left = f"Worker {instance} of {host} was not touched"
    held = _rollout.held(workers, given["by"])
    if held:
        drained, who = held
        module.fail_json(
            msg=f"{left}: {who} has drained worker {drained}. A rollout neither ends that drain nor sends more clients "
            f"away meanwhile. When {who} is done, let clients in there again "
            f"(ws-server ctl undrain --instance {drained} --by {shlex.quote(who)}), then run this playbook again."
        )
    by_name = {facts["instance"]: facts for facts in found}
    if instance not in by_name:
        module.fail_json(msg=f"{host} has no worker {instance}.")
    if by_name[instance]["ready"]:
        repaired = [
            each.instance
            for each in workers
            if module.check_mode and _rollout.endpoint(each.instance, given["endpoints"]) in given["pending"]
        ]
        missing = [
            f"{name} of {host} ({by_name[name]['state']})" for name in _rollout.missing(workers, instance, repaired)
        ]
        missing += _missing_elsewhere(gate, given)
        if missing:
            module.fail_json(
                msg=f"{left}: its clients need the other workers, and these are not ready: {', '.join(missing)}. {_REMEDY} "
                "(Workers that serve no client are replaced first, so a worker that this run repairs delays no other.)",
                missing=missing,
            )
    module.exit_json(worker=by_name[instance], workers=found)


_REMEDY = "Look there with ws-server ctl and journalctl -u 'ws-server@*'. Once all of them are ready, run this playbook again."


def _missing_elsewhere(gate: Gate, given: dict[str, Any]) -> list[str]:
    answers = gate.unready(_rollout.to_ask(given["fleet"], given["endpoints"], given["pending"]))
    return [f"{endpoint} ({answer})" for endpoint, answer in answers.items()]


if __name__ == "__main__":
    main()
