# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    # A module that looks at all workers of its host.
    DOCUMENTATION = r"""
options: {}
notes:
  - The control sockets and the settings of the workers are for root and their own group, so this usually needs C(become).
"""

    # Beside it, for a module that decides about a rollout.
    ROLLOUT = r"""
options:
  by:
    description:
      - In whose name rollouts drain workers. A drain in another name is an operator's.
    type: str
    default: rollout
  endpoints:
    description:
      - Where the workers of this host listen for the edge, each as C(ADDRESS:PORT).
    type: list
    elements: str
    default: []
"""
