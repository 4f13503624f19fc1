#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The operator's path, on several hosts: two with an edge and workers, and Redis and Postgres on a third; two of them are Debian 12, so that
# both Debians serve the same rooms. The collection is built, and installed from its tarball into an empty project; the release before it,
# which the fleet has first, likewise. (hosts.sh clear takes away what a killed run has left.)
. "$(dirname "$0")/../lab/common.sh"

run=hosts-$clone
lab/lab down --run "$run"
if [ "${1:-}" = clear ]; then
    exit
fi

fleet=$PWD/.lab/hosts
projects=$(mktemp -d)
trap 'rm -rf "$projects"; lab/lab down --run "$run"' EXIT

lab/lab up --run "$run" --suite bookworm one back
lab/lab up --run "$run" --suite trixie two
lab/inventory --run "$run" --directory "$fleet" one=ws_edge,ws_workers two=ws_edge,ws_workers back=ws_redis,ws_postgres

install() { # SOURCE PROJECT
    ansible-galaxy collection build --output-path "$2" "$1"
    (
        cd "$2" # out of reach of this clone's ansible.cfg
        export ANSIBLE_COLLECTIONS_PATH=$2/collections
        ansible-galaxy collection install --collections-path collections selfhost-websocket-*.tar.gz
    )
}
mkdir "$projects/source"
git archive "$(cat tests/fleet/previous_release)" | tar -x -C "$projects/source"
install "$projects/source" "$projects/previous"
install . "$projects/current"

export ANSIBLE_PIPELINING=true # less work for this machine; the rest is an operator's defaults
site() { # PROJECT [OPTION…]
    (
        cd "$projects/$1"
        ANSIBLE_COLLECTIONS_PATH=$PWD/collections ansible-playbook -i "$fleet/inventory" selfhost.websocket.site "${@:2}"
    )
}
site current --check # on hosts that have none of the packages, users and files yet
site previous

for edge in one two; do
    lab/lab ssh --run "$run" "$edge" cat /etc/ssl/ws/ca.pem
done >"$fleet/ca.pem"
export WS_FLEET_STATUS=$fleet/status.json WS_FLEET_PROJECTS=$projects
# The upgrade comes first, the way back last. What the layout does not concern, the other fleets show.
(
    cd tests/fleet
    pytest -m "not long and not rolls" test_upgrade.py::test_the_upgrade test_host.py test_conversation.py test_edge.py test_failures.py \
        test_hosts.py test_upgrade.py::test_the_way_back
)
