#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The linters; see lint.py.
"$(dirname "$0")/../lab/prerequisites.sh" || exit
. "$(dirname "$0")/../lab/common.sh"
exec python ci/lint.py
