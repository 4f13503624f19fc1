#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Removes everything that `make up` created, and nothing else. The Debian packages, .venv and the
# caches in /var/cache/ws-lab stay for the next run.
. "$(dirname "$0")/common.sh"

said="Nothing is up here."
if lab/lab status --run "up-$clone" >/dev/null 2>&1; then
    said="The test host of make up, its network and its files are gone. Caches stay for the next time."
fi
lab/lab down --run "up-$clone"
rm -rf .lab/up
echo "$said"
