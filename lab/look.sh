#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The state in numbers of the fleet that `make up` deployed, and its alerts.
. "$(dirname "$0")/common.sh"

lab/status.sh >/dev/null
exec lab/lab ssh --run "up-$clone" fleet ws-fleet
