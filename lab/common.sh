# shellcheck shell=bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Shared by the verbs' scripts: they work in the root of the clone, with its environment and its own
# run name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PATH=$PWD/.venv/bin:$PATH
# Runs are named after the clone, so that the verbs of two clones do not interfere.
# shellcheck disable=SC2034
clone=$(pwd -P | sha256sum | cut -c1-8)
