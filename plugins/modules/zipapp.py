#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: zipapp
short_description: Install a Python program as one file
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Packs Python files of the control machine into one zip file that C(python3) runs, and copies the file to the host.
  - Equal sources make equal files on every control machine. A second run therefore changes nothing.
  - A host never has new modules beside old ones, even after an interrupted run.
extends_documentation_fragment:
  - selfhost.websocket.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details:
      - The file is binary. The difference shows only whether the file changes.
  idempotent:
    support: full
options:
  src:
    description:
      - The sources on the control machine, each a Python file or the directory of a package.
      - Relative paths are resolved as in M(ansible.builtin.copy). Only C(*.py) files of a package are packed.
    type: list
    elements: str
    required: true
  main:
    description: The main function of the program, for example V(package.module:main).
    type: str
    required: true
  dest:
    description: The file on the host. Its directory must exist.
    type: path
    required: true
  owner:
    description: The owner of the file.
    type: str
  group:
    description: The group of the file.
    type: str
  mode:
    description: The permissions of the file, for example V("0644").
    type: raw
seealso:
  - module: ansible.builtin.copy
"""

EXAMPLES = r"""
- name: Install the program
  selfhost.websocket.zipapp:
    src: [program]
    main: program.__main__:main
    dest: /usr/local/lib/program.pyz
    mode: "0644"
"""

RETURN = r"""
dest:
  description: The file on the host.
  returned: success
  type: str
  sample: /usr/local/lib/program.pyz
checksum:
  description: The SHA-1 checksum of the file.
  returned: success
  type: str
  sample: 6e642bb8dd5c2e027bf21dd923337cbb4214f827
"""
