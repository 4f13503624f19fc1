#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Creates .venv from requirements/dev.txt, without root. A second run finds the environment in place
# and ends at once. The next run completes an interrupted run.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p .lab
exec 9>.lab/environment.lock
flock 9

# .venv is a link to an environment named after its lock, switched only when that environment is
# complete.
python=/usr/bin/python3
lock=$({ $python --version; cat requirements/dev.txt; } | sha256sum | cut -c1-12)
environment=$PWD/.lab/venv/$lock
if [ ! -e "$environment/complete" ]; then
    echo "Installing Python packages from requirements/dev.txt into .venv (about a minute)"
    rm -rf "$environment"
    $python -m venv "$environment" || {
        echo "Python cannot create an environment. Install python3-venv, or run lab/prerequisites.sh as root." >&2
        exit 2
    }
    "$environment/bin/pip" install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt
    touch "$environment/complete"
fi
if [ "$(readlink .venv || true)" != ".lab/venv/$lock" ]; then
    ln -sfnT ".lab/venv/$lock" .venv
fi
