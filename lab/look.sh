#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Shows the state of the fleet of `make up` in numbers, and its alerts.
. "$(dirname "$0")/common.sh"

lab/status.sh >/dev/null
exec lab/lab ssh --run "up-$clone" fleet ws-fleet
