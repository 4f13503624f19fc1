#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The operator's path: the collection built, installed from its tarball into an empty project, and deployed from there,
# with Redis and Postgres on a host of their own. (tarball.sh clear takes away what a killed run has left.)
. "$(dirname "$0")/common.sh"

run=tarball-$clone
lab/lab down --run "$run"
if [ "${1:-}" = clear ]; then
    exit
fi

fleet=$PWD/.lab/tarball
project=$(mktemp -d)
trap 'rm -rf "$project"; lab/lab down --run "$run"' EXIT

lab/lab up --run "$run" front back
lab/inventory --run "$run" --directory "$fleet" front=ws_edge,ws_workers back=ws_redis,ws_postgres

ansible-galaxy collection build --output-path "$project"
(
    cd "$project"
    export ANSIBLE_COLLECTIONS_PATH=$project/collections
    ansible-galaxy collection install --collections-path collections selfhost-websocket-*.tar.gz
    ansible-playbook -i "$fleet/inventory" selfhost.websocket.site
    ansible-playbook -i "$fleet/inventory" selfhost.websocket.site | tee second.log
    if grep -E 'changed=[1-9]' second.log; then
        echo "The second run changed something." >&2
        exit 1
    fi
)

lab/lab ssh --run "$run" front cat /etc/ssl/ws/ca.pem >"$fleet/ca.pem"
WS_FLEET_STATUS=$fleet/status.json pytest tests/fleet
