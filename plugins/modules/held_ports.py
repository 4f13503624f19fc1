#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: held_ports
short_description: Find programs that hold the TCP ports that services need
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Lists the listeners on ports of this host that do not belong to the expected units.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
options:
  units:
    description: The ports of each systemd unit, or of each pattern of units, such as V(ws-server@*.service).
    type: dict
    required: true
notes:
  - Without C(become), the module cannot see the names of other users' programs.
"""

EXAMPLES = r"""
- name: Find programs on the edge's ports
  selfhost.websocket.held_ports:
    units:
      nginx.service: [80, 443]
  register: ports
"""

RETURN = r"""
held:
  description: The listeners that belong to other units, in the order of their ports.
  returned: success
  type: list
  elements: dict
  contains:
    port:
      description: The port.
      type: int
      sample: 443
    pid:
      description: The process, or V(0) if it is not visible.
      type: int
      sample: 812
    program:
      description: The program's name, or an empty string.
      type: str
      sample: caddy
    unit:
      description: The systemd unit of the process, or an empty string.
      type: str
      sample: caddy.service
  sample:
    - port: 443
      pid: 812
      program: caddy
      unit: caddy.service
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils._ports import held


def main() -> None:
    module = AnsibleModule(argument_spec={"units": {"type": "dict", "required": True}}, supports_check_mode=True)
    try:
        found = held(module.params["units"])
    except (TypeError, ValueError) as error:
        module.fail_json(msg=f"units must have a list of ports for each unit: {error}")
    module.exit_json(held=[asdict(listener) for listener in found])


if __name__ == "__main__":
    main()
