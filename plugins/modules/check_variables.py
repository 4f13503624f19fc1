#!/usr/bin/python
# -*- coding: utf-8 -*-

# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: check_variables
short_description: Check the variables of a host and report all faults at once
version_added: 0.1.0
author:
  - The selfhost.websocket authors (@selfhost)
description:
  - Applies a table of rules to the variables of the host. If a rule is broken, the task fails with one sentence for each
    fault, which names the variable, its value and the remedy.
  - Runs on the control machine, connects to no host and changes nothing.
extends_documentation_fragment:
  - selfhost.websocket.attributes
  - selfhost.websocket.attributes.reads_only
attributes:
  action:
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the controller.
    support: full
options:
  rules:
    description:
      - The rules, in the order in which faults are reported.
      - Each names one O(rules[].variable) or several O(rules[].variables), one test (O(rules[].whole), O(rules[].form),
        O(rules[].each) or O(rules[].address)) and a O(rules[].remedy), or else a O(rules[].check).
    type: list
    elements: dict
    required: true
    suboptions:
      variable:
        description: The name of the variable.
        type: str
      variables:
        description: The names of several variables with the same test and remedy.
        type: list
        elements: str
      whole:
        description: The lowest and the highest whole number. V(null) means no upper limit. A text like V("8") is a number, too.
        type: list
        elements: raw
      form:
        description: A regular expression that the value matches from its beginning.
        type: str
      each:
        description: A regular expression that each element of the list matches from its beginning.
        type: str
      address:
        description:
          - The value must be one of the host's addresses in its facts. The sentence ends with these addresses.
        type: dict
        suboptions:
          also:
            description: Further values that are allowed.
            type: list
            elements: str
      remedy:
        description: The remedy, in words that continue a sentence after a colon.
        type: str
      fault:
        description: The fault, shown instead of the value. A rule for a secret needs this text, so that no message shows the secret.
        type: str
      when:
        description: The name of a variable. The rule applies only if that variable is true, or a list with elements.
        type: str
      unless:
        description: The name of a variable. The rule applies only if that variable is not true.
        type: str
      check:
        description:
          - The name of a rule of this collection that compares several variables, as C(plugins/module_utils/_rules.py) lists them.
        type: str
"""

EXAMPLES = r"""
- name: Check the variables of a role
  selfhost.websocket.check_variables:
    rules:
      - variable: backup_keep
        whole: [1, 365]
        remedy: set it to a number of backups from 1 to 365
      - variable: backup_password
        form: '^\S{12,}$'
        fault: is shorter than 12 characters, or has a space
        remedy: choose a longer one
      - variable: backup_listen_address
        address: {also: [127.0.0.1]}
        remedy: set it to 127.0.0.1 or one of
"""

RETURN = r"""
faults:
  description: One sentence for each fault.
  returned: always
  type: list
  elements: str
  sample: ["backup_keep is 0: set it to a number of backups from 1 to 365."]
"""

# The action plugin of the same name does the work.
