#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Runs shellcheck on all shell scripts of the tree.
. "$(dirname "$0")/../lab/common.sh"

git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
