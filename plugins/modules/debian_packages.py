#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: debian_packages
short_description: Install packages of Debian
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Asks C(dpkg) which packages are missing. If all are installed, C(apt) is not run, so a host whose sources are unreachable is fine.
  - If one is missing, the lists of C(apt) are refreshed unless they are younger than an hour, and the package is installed with
    M(ansible.builtin.apt).
  - Lists that cannot be refreshed are a warning as long as the packages can be installed. In one run a refresh fails once.
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
      - The file of a package on the host, which is installed with what it depends on. An older version is installed, too.
    type: path
  install_recommends:
    description:
      - Whether to install the packages that these recommend. By default as C(apt) is configured.
    type: bool
attributes:
  check_mode:
    support: full
    details:
      - The lists of C(apt) are refreshed, because without them C(apt) cannot tell what it would install.
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
  description: What C(apt-get) said.
  returned: if packages were missing
  type: str
  sample: "Reading package lists..."
"""
