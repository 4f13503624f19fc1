#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Unmakes everything that `make up` made, and nothing else. (The Debian packages, .venv and the cache of base systems
# in /var/cache/ws-lab stay for the next time.)
. "$(dirname "$0")/common.sh"

lab/lab down --run "up-$clone"
rm -rf .lab/up
