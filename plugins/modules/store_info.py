#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: store_info
short_description: Find the Redis and the Postgres that the workers of a host use
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Reads the settings of the running workers, and returns which Redis and which Postgres each of them uses.
  - Stopped workers use no store, so the result leaves them out. The module returns no secret.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
options:
  generations:
    description:
      - More generations to read, whether or not a worker uses them.
    type: list
    elements: str
    default: []
notes:
  - Only root and their own group can read the settings of the workers, so this usually needs C(become).
seealso:
  - module: selfhost.websocket.worker_info
"""

EXAMPLES = r"""
- name: Look for the stores that the workers use
  selfhost.websocket.store_info:
  register: host

- name: Show the addresses of Redis
  ansible.builtin.debug:
    msg: "{{ host.workers | map(attribute='redis.address') | unique }}"
"""

RETURN = r"""
workers:
  description: The running workers, in the order of their names.
  returned: success
  type: list
  elements: dict
  contains:
    instance:
      description: The name of the worker.
      type: str
      sample: "80"
    redis:
      description: The Redis of the worker, or V(null) if it has none.
      type: dict
      contains:
        address:
          description: The address, or the empty string if the store is on this host.
          type: str
          sample: 10.0.0.3
        machine:
          description: The machine ID of the store's host, or the empty string if the settings do not name it.
          type: str
          sample: 3f7a90c15b2e4d2c8c1f0a5be2d45f0c
    postgres:
      description: The Postgres of the worker, with the same keys, or V(null) if it has none.
      type: dict
  sample:
    - instance: "80"
      redis: {"address": "10.0.0.3", "machine": "3f7a90c15b2e4d2c8c1f0a5be2d45f0c"}
      postgres: {"address": "", "machine": "7c15b2e4d2c8c1f0a5be2d45f0c3f7a9"}
generations:
  description: For each of O(generations) that the host has, the same RV(workers[].redis) and RV(workers[].postgres).
  returned: success
  type: dict
  sample:
    0.1.0+8c1f0a5be2d4-5f0c2a91:
      redis: {"address": "10.0.0.3", "machine": "3f7a90c15b2e4d2c8c1f0a5be2d45f0c"}
      postgres: {"address": "", "machine": "7c15b2e4d2c8c1f0a5be2d45f0c3f7a9"}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance, _stores, _unit

_STOPPED = ("inactive", "failed")


def main() -> None:
    module = AnsibleModule(
        argument_spec={"generations": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    instances = [_instance.Instance(name) for name in _instance.names()]
    try:
        units = _unit.show(module.run_command, [instance.unit for instance in instances]) if instances else []
        workers = [
            {"instance": instance.name, **_stores_of(instance.generation)}
            for instance, unit in zip(instances, units, strict=True)
            if unit.exists and unit.active not in _STOPPED and instance.generation
        ]
        generations = {name: _stores_of(name) for name in module.params["generations"]}
    except _unit.SystemdError as error:
        module.fail_json(msg=f"The state of the workers of this host is unknown: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}. Run this task with become.")
    module.exit_json(workers=workers, generations=generations)


def _stores_of(generation: str | None) -> dict[str, Any]:
    """The stores in the settings of a generation; none for a deleted generation."""
    try:
        env = (_instance.HOME / "generations" / str(generation) / "env").read_text(encoding="utf-8")
    except FileNotFoundError:
        env = ""
    found = _stores.parse(env)
    return {name: found[name].as_dict() if name in found else None for name in _stores.NAMES}


if __name__ == "__main__":
    main()
