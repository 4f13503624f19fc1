# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: stop_timeout
short_description: The seconds that systemd grants a worker to stop
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Computes the C(TimeoutStopSec) of a worker's unit from its drain window. A worker that needs longer is killed.
options:
  _input:
    description: The seconds over which a stopping worker sends its clients away, C(ws_server_drain_window_s).
    type: float
    required: true
"""

EXAMPLES = r"""
- name: Show how long the stop of a worker may take
  ansible.builtin.debug:
    msg: "{{ ws_server_drain_window_s | selfhost.websocket.stop_timeout }}"
"""

RETURN = r"""
_value:
  description: Whole seconds, for example V(30) for a window of V(5).
  type: int
"""

from collections.abc import Callable

from ansible_collections.selfhost.websocket.plugins.module_utils._stopping import stop_timeout


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[[float | str], int]]:
        """Return the filter by its name."""
        return {"stop_timeout": stop_timeout}
