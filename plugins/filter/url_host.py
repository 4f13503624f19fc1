# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: url_host
short_description: Format a host for use in a URL
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Puts an IPv6 address in brackets, because its colons would otherwise end the host in a URL. Returns every other host unchanged.
options:
  _input:
    description: A name, an IPv4 address or an IPv6 address. An address in brackets stays unchanged.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Ask Prometheus
  ansible.builtin.uri:
    url: http://{{ prometheus_listen_address | selfhost.websocket.url_host }}:9090/-/ready
"""

RETURN = r"""
_value:
  description: The host, for example V([fd00::1]) or V(10.0.0.1).
  type: str
"""

from collections.abc import Callable

from ansible_collections.selfhost.websocket.plugins.module_utils._addresses import url_host


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[[str], str]]:
        """Return the filter by its name."""
        return {"url_host": url_host}
