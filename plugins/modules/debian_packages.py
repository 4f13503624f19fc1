#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: debian_packages
short_description: Install Debian packages
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Queries C(dpkg) for missing packages. If all are installed, the module does not run C(apt), and unreachable package sources
    do not matter.
  - If a package is missing, the module refreshes the lists of C(apt) unless they are younger than an hour, and installs the package
    with M(ansible.builtin.apt).
  - A failed refresh is only a warning as long as the packages can be installed. A run tries a failed refresh only once.
  - Waits up to 10 minutes for the lock of C(apt), which the first boot of a cloud host holds.
extends_documentation_fragment:
  - selfhost.websocket.attributes
options:
  name:
    description:
      - The names of the packages.
      - Exactly one of O(name) and O(deb) is required.
    type: list
    elements: str
  deb:
    description:
      - The file of a package on the host. The module installs the package with its dependencies, even an older version.
    type: path
  install_recommends:
    description:
      - Whether to install recommended packages. By default, the configuration of C(apt) decides.
    type: bool
attributes:
  check_mode:
    support: full
    details:
      - The module refreshes the lists of C(apt), because without them C(apt) cannot determine what it would install.
  diff_mode:
    support: full
  idempotent:
    support: full
seealso:
  - module: ansible.builtin.apt
"""

EXAMPLES = r"""
- name: Install Redis
  selfhost.websocket.debian_packages:
    name: [redis-server]
"""

RETURN = r"""
stdout:
  description: The output of C(apt-get).
  returned: if packages were missing
  type: str
  sample: "Reading package lists..."
"""
