#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Checks the syntax of all JavaScript of the tree.
. "$(dirname "$0")/../lab/common.sh"

status=0
while read -r file; do
    node --check --input-type=module <"$file" || { status=1; echo "in $file" >&2; }
done < <(git ls-files '*.js' '*.mjs')
exit $status
