#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Prints the fleet of `make up` as one JSON object.
. "$(dirname "$0")/common.sh"

if [ ! -e .lab/up/ca.pem ]; then
    echo "There is no fleet. Run: make up" >&2
    exit 1
fi
cat .lab/up/status.json
