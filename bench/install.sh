#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Installs the other servers of the benchmark. None of them is started as a service.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(nats-server nginx libnginx-mod-nchan)
# An existing Node has its own npm.
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
lab/prerequisites.sh "${packages[@]}"

# The packages are beside the tree, so that no tool mistakes them for the project's.
node=.lab/bench/node
mkdir -p "$node"
if ! cmp -s bench/peers/node/package-lock.json "$node/complete"; then
    echo "Installing socket.io from npm into $node"
    cp bench/peers/node/package*.json "$node"
    npm ci --prefix "$node" --ignore-scripts --no-audit --no-fund --loglevel error
    cp bench/peers/node/package-lock.json "$node/complete"
fi
