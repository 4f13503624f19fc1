# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: stores_elsewhere
short_description: Find the stores that workers use on another host than the inventory names
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Compares the Redis and the Postgres in the workers' settings with the inventory.
  - The filter recognizes a store's host by its addresses, and under a new address by its machine ID.
    C(ansible_host) counts as an address.
positional: hostvars, wanted
options:
  _input:
    description: For each worker host, RV(selfhost.websocket.store_info#module:workers).
    type: dict
    required: true
  hostvars:
    description: Ansible's C(hostvars). A host without facts is recognized only by an address in the inventory.
    type: dict
    required: true
  wanted:
    description: The hosts that the inventory names for C(redis) and C(postgres).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the stores that a rollout would leave behind
  ansible.builtin.debug:
    msg: "{{ used | selfhost.websocket.stores_elsewhere(hostvars, {'redis': 'two', 'postgres': 'one'}) }}"
  vars:
    used:
      one: [{"instance": "80", "redis": {"address": "", "machine": ""}, "postgres": {"address": "", "machine": ""}}]
"""

RETURN = r"""
_value:
  description: The stores on another host than the inventory names.
  type: list
  elements: dict
  contains:
    name:
      description: V(redis) or V(postgres).
      type: str
    host:
      description: The host of the store, or V(null) if no host is known to have its address.
      type: str
    address:
      description: The address of the store in the workers' settings, if O(hostvars) does not have its host.
      type: str
    users:
      description: The hosts whose workers use the store.
      type: list
      elements: str
    candidates:
      description: If RV(_value[].host) is V(null), the hosts of the inventory whose addresses are not known.
      type: list
      elements: str
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.selfhost.websocket.plugins.module_utils import _stores


def stores_elsewhere(
    used: Mapping[str, Any], hostvars: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the stores that are not on the wanted hosts."""
    known = {name: _host(hostvars[name]) for name in hostvars}
    found = map(dataclasses.asdict, _stores.elsewhere(used, known, wanted))
    return [one | {key: list(one[key]) for key in ("users", "candidates")} for one in found]


def _host(variables: Mapping[str, Any]) -> _stores.Host:
    facts = variables.get("ansible_facts", {})
    addresses = {*facts.get("all_ipv4_addresses", []), *facts.get("all_ipv6_addresses", [])}
    private = variables.get("ws_server_private_address")
    known = {*addresses, private} if private else addresses
    return _stores.Host(known, facts.get("machine_id", ""), variables.get("ansible_host", ""))


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., list[dict[str, Any]]]]:
        """Return the filter by its name."""
        return {"stores_elsewhere": stores_elsewhere}
