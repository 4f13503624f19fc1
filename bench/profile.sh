#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Profiles ws-server's CPU with py-spy at bursts of 1, 10 and 50, in handshakes and in joins.
# --write: into docs/profile.md.
cd "$(dirname "$0")/.." || exit
lab/prerequisites.sh || exit
. lab/common.sh

tools=.lab/bench/py-spy
if [ ! -x "$tools/bin/py-spy" ]; then
    /usr/bin/python3 -m venv "$tools"
    "$tools/bin/pip" install -qq --disable-pip-version-check --require-hashes -r bench/requirements.txt
fi
PYTHONPATH=$PWD:files/wsserver/src:files/wsserver/tests exec python -m bench.profile "$tools/bin/py-spy" "$@"
