# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    # A module that reads the state of all workers of its host.
    DOCUMENTATION = r"""
options: {}
notes:
  - Only root and the workers' own group can use the control sockets and the settings, so this usually needs C(become).
"""

    # The additional options of a module that decides about a rollout.
    ROLLOUT = r"""
options:
  by:
    description:
      - The name under which rollouts drain workers. A drain under another name belongs to an operator.
    type: str
    default: rollout
  endpoints:
    description:
      - The endpoints of this host's workers for the edge, each as C(ADDRESS:PORT).
    type: list
    elements: str
    default: []
"""
