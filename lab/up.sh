#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Deploys a fleet on a test host, also from a fresh machine. A second run changes nothing.
began=$EPOCHSECONDS
"$(dirname "$0")/prerequisites.sh" || exit
. "$(dirname "$0")/common.sh"
. lab/fast_ansible.sh

PYTHONPATH=lab exec python -m verbs.up --run "up-$clone" --suite "${SUITE:-}" --began "$began"
