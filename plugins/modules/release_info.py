#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: List the releases of the service on a host
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Lists the releases in C(/opt/ws-server/releases), and checks whether the host can still run each of them.
  - After an upgrade of Debian in place, the interpreter of a release may no longer exist.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
options: {}
"""

EXAMPLES = r"""
- name: List the releases
  selfhost.websocket.release_info:
  register: host

- name: Show the releases that cannot run
  ansible.builtin.debug:
    msg: "{{ host.releases | selectattr('complaint') }}"
"""

RETURN = r"""
abi:
  description: The interpreter and the architecture of the host's C(python3), as in the file names of compiled modules.
  returned: success
  type: str
  sample: cpython-313-x86_64-linux-gnu
releases:
  description: The releases, in the order of their names.
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: The version that its workers report.
      type: str
      sample: 0.1.0+8c1f0a5be2d4
    environment:
      description: The name of the environment with its dependencies, or V(null) if the release contains them.
      type: str
      sample: cpython-313-x86_64-linux-gnu-3f7a90c15b2e
    complaint:
      description: Why the host cannot run the release, or V(null) if it can.
      type: str
      sample: it was built for Python 3.11, and the host has Python 3.13
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.selfhost.websocket.plugins.module_utils import _release


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        abi = _release.host_abi(module.run_command)
        releases = _release.releases()
    except _release.PythonError as error:
        module.fail_json(msg=f"The Python of this host cannot be used: {error}.")
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}. Run this task with become.")
    module.exit_json(abi=abi, releases=releases)


if __name__ == "__main__":
    main()
