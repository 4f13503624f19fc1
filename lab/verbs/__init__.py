# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""What `make up` and `make roll` do, and how they show it.

``progress`` turns Ansible's events and the witness's lines into words, ``console`` shows them, ``playbook`` runs a playbook under
both. ``up`` and ``roll`` are the verbs.
"""
