# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: acl_passwords
short_description: List the hashes of the passwords that a Redis user needs while its password changes
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Reads the text of an ACL file. Redis accepts each of a user's passwords, and stores them as SHA-256 hashes.
positional: user, password
options:
  _input:
    description: The text of the ACL file, which may be empty.
    type: str
    required: true
  user:
    description: The name of the user.
    type: str
    required: true
  password:
    description: The current password of the user.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show how many passwords the service may use
  ansible.builtin.debug:
    msg: "{{ acl | selfhost.websocket.acl_passwords('ws', password) | length }}"
"""

RETURN = r"""
_value:
  description: The hash of the current password, and then those of the earlier passwords in the order of the file.
  type: list
  elements: str
"""

from collections.abc import Callable

from ansible_collections.selfhost.websocket.plugins.module_utils._redis_acl import acl_passwords


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[[str, str, str], list[str]]]:
        """Return the filter by its name."""
        return {"acl_passwords": acl_passwords}
