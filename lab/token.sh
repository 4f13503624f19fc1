#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Prints a token of the fleet of `make up`: token.sh USER
. "$(dirname "$0")/common.sh"

if ! [[ ${1:-} =~ ^[A-Za-z0-9._@-]+$ ]]; then
    echo "Name the user, in letters, digits and . _ @ -, for example: make token USER=alice" >&2
    exit 2
fi
lab/status.sh >/dev/null
lab/lab ssh --run "up-$clone" fleet ws-server token "$1"
