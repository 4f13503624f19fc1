#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Runs the benchmark, also on a fresh machine: run.sh [--quick] [--only NAMES] [--write]. See
# docs/benchmarks.md.
cd "$(dirname "$0")/.." || exit
bench/install.sh || exit
. lab/common.sh
PYTHONPATH=$PWD:files/wsserver/src:files/wsserver/tests exec python -m bench "$@"
