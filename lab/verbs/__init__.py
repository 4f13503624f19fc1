# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The verbs `make up` and `make roll`, and the display of their progress.

``progress`` turns Ansible's events and the witness's lines into text, ``console`` shows the text,
and ``playbook`` runs a playbook with both. ``up`` and ``roll`` are the verbs.
"""
