#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: metrics_gate
short_description: Wait until expressions hold in Prometheus
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Queries Prometheus repeatedly, and ends when all expressions have held for some time without a break.
  - An expression holds when it has a result, as in an alert. C(node_load1 < 4) has no result while the load is higher.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
attributes:
  check_mode:
    details:
      - Queries Prometheus once and does not wait. RV(holds) is the result. Only an invalid expression is a failure.
options:
  prometheus_url:
    description:
      - The URL of Prometheus, as this host reaches it, for example C(http://127.0.0.1:9090).
    type: str
    required: true
  expressions:
    description:
      - The PromQL expressions.
    type: list
    elements: str
    required: true
  hold_s:
    description:
      - For how many seconds in a row all expressions must hold.
    type: float
    default: 10
  timeout_s:
    description:
      - The maximum number of seconds to wait, more than O(hold_s).
    type: float
    default: 120
"""

EXAMPLES = r"""
- name: Continue once delivery is fast and nothing is dropped
  selfhost.websocket.metrics_gate:
    prometheus_url: http://127.0.0.1:9090
    expressions:
      - sum(rate(ws_message_drops_total[1m])) < 1
      - histogram_quantile(0.99, sum by (le) (rate(ws_publish_to_deliver_seconds_bucket[1m]))) < 0.25
    hold_s: 20
"""

RETURN = r"""
holds:
  description: Whether all expressions held in the end.
  returned: always
  type: bool
looks:
  description: The number of queries.
  returned: always
  type: int
  sample: 12
seconds:
  description: The seconds that the module took.
  returned: always
  type: float
  sample: 11.8
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils._prometheus import ExpressionError, Gate, Prometheus
from ansible_collections.selfhost.websocket.plugins.module_utils._waiting import Wait


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "prometheus_url": {"type": "str", "required": True},
            "expressions": {"type": "list", "elements": "str", "required": True},
            "hold_s": {"type": "float", "default": 10},
            "timeout_s": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["timeout_s"] <= given["hold_s"]:
        module.fail_json(msg=f"timeout_s is {given['timeout_s']:g}: it must be more than hold_s, {given['hold_s']:g}.")
    wait = Wait(0 if module.check_mode else given["timeout_s"])
    hold_s = 0 if module.check_mode else given["hold_s"]
    gate = Gate(Prometheus(given["prometheus_url"]), given["expressions"], hold_s, wait)
    holds, trouble = False, None
    try:
        holds = gate.open()
        if not holds and not module.check_mode:
            trouble = (
                f"In {given['timeout_s']:g} s not all expressions held for {hold_s:g} s in a row: {gate.complaint}."
            )
    except ExpressionError as error:
        trouble = f"{error}."
    result = {"holds": holds, "looks": gate.looks, "seconds": round(wait.seconds, 3)}
    if trouble:
        module.fail_json(msg=trouble, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
