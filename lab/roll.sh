#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Replaces the workers of the fleet of make up while 500 clients use it, and reports what they saw.
# roll.sh [PLAYBOOK]: rolling_update, rolling_restart or rollback. By default, the workers get a new
# release, or restart if nothing is new.
. "$(dirname "$0")/common.sh"

PYTHONPATH=lab exec python -m verbs.roll --run "up-$clone" ${1:+"$1"}
