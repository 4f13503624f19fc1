# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: topology
short_description: The addresses, ports and connections of the hosts of a fleet
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Computes, for the current host, what the roles of this collection must know about the other hosts, from the groups of the
    inventory and the variables of the hosts.
  - The groups are C(ws_edge), C(ws_workers), C(ws_redis), C(ws_postgres) and C(ws_observability), or those that the variables
    C(ws_edge_group), C(ws_workers_group), C(ws_redis_group), C(ws_postgres_group) and C(ws_observability_group) name.
  - A host's address in the fleet is the variable C(ws_server_private_address). Without that variable it is the address of the
    host's default route, of IPv4 or else of IPv6, from the facts of the host.
options:
  _terms:
    description:
      - The names of values, such as V(endpoints) or V(edges). C(playbooks/vars/fleet.yml) assigns all of them to variables.
      - Without a name, one dictionary of all values.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Show where the workers of the fleet listen
  ansible.builtin.debug:
    msg: "{{ lookup('selfhost.websocket.topology', 'endpoints') }}"

- name: Show all values of the fleet for a host
  ansible.builtin.debug:
    msg: "{{ lookup('selfhost.websocket.topology') }}"
"""

RETURN = r"""
_raw:
  description: One value per name, or one dictionary of all values.
  type: list
  elements: raw
  sample: [["10.0.0.1:8080", "10.0.0.1:8081"]]
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.selfhost.websocket.plugins.module_utils._topology import (
    GROUPS,
    VALUES,
    Topology,
    UnknownError,
)


class LookupModule(LookupBase):
    """Passes the groups and the variables of the hosts to the topology."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """Returns the values with these names, or all of them."""
        self.set_options(var_options=variables, direct=kwargs)
        given = variables or {}
        names = {group: self._templar.template(given.get(f"{group}_group", group)) for group in GROUPS}
        topology = Topology(
            given.get("groups", {}), given.get("hostvars", {}), given.get("inventory_hostname", ""), names
        )
        try:
            if not terms:
                return [{name: topology.value(name) for name in VALUES}]
            return [topology.value(term) for term in terms]
        except UnknownError as error:
            raise AnsibleLookupError(str(error)) from error
