#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Replaces the workers of the fleet of make up while 500 clients talk over it, and says what they saw. roll.sh [PLAYBOOK]: rolling_update,
# rolling_restart or rollback; without it the workers get what is new, and are restarted if nothing is.
. "$(dirname "$0")/common.sh"

PYTHONPATH=lab exec python -m verbs.roll --run "up-$clone" ${1:+"$1"}
