#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The operator's path, on several hosts: two with an edge and workers, and Redis and Postgres on a
# third. Two of them are Debian 12, so that both Debians serve the same rooms. The collection is built,
# and installed from its tarball into an empty project; so is the previous release, which the fleet has
# first. Hosts with the previous release are kept as a snapshot: deploying it tests nothing of this tree.
# hosts.sh long runs the tests that make test leaves out, too; hosts.sh clear unmakes what a killed run
# has left.
. "$(dirname "$0")/../lab/common.sh"

run=hosts-$clone
lab/lab down --run "$run"
if [ "${1:-}" = clear ]; then
    exit
fi

fleet=$PWD/.lab/hosts
projects=$(mktemp -d)
trap 'rm -rf "$projects"; lab/lab down --run "$run"' EXIT

install() { # SOURCE PROJECT
    ansible-galaxy collection build --output-path "$2" "$1"
    (
        cd "$2" # out of reach of this clone's ansible.cfg
        export ANSIBLE_COLLECTIONS_PATH=$2/collections
        ansible-galaxy collection install --collections-path collections selfhost-websocket-*.tar.gz
    )
}
inventory() {
    # Two workers on each host have a first, a last and others; molecule's fleet has the default of four.
    lab/inventory --run "$run" --directory "$fleet" --variable ws_server_instances=2 \
        one=ws_edge,ws_workers two=ws_edge,ws_workers back=ws_redis,ws_postgres
}

echo "--- collections"
previous=$(cat tests/fleet/previous_release)
mkdir "$projects/source"
git archive "$previous" | tar -x -C "$projects/source"
install "$projects/source" "$projects/previous"
install . "$projects/current"

export ANSIBLE_PIPELINING=true # less work for this machine; the rest is an operator's defaults
echo "--- previous release"
# What the snapshot depends on, and the month: certificates in it expire.
made_of=$( (date +%Y-%m; echo "$previous"; cat ci/hosts.sh lab/lab lab/labhosts/* lab/inventory requirements/dev.txt) | sha256sum)
snapshot=previous-release-${made_of:0:12}
status=0
lab/lab restore --run "$run" "$snapshot" || status=$?
case $status in
0) inventory ;;
3)
    lab/lab up --run "$run" --suite bookworm one back
    lab/lab up --run "$run" --suite trixie two
    inventory
    (
        cd "$projects/previous"
        ANSIBLE_COLLECTIONS_PATH=$PWD/collections ansible-playbook -i "$fleet/inventory" selfhost.websocket.site
    )
    lab/lab snapshot --run "$run" "$snapshot"
    ;;
*) exit "$status" ;;
esac

for edge in one two; do
    lab/lab ssh --run "$run" "$edge" cat /etc/ssl/ws/ca.pem
done >"$fleet/ca.pem"

echo "--- tests/fleet"
export WS_FLEET_STATUS=$fleet/status.json WS_FLEET_PROJECTS=$projects
chosen="not rolls"
[ "${1:-}" = long ] || chosen="$chosen and not long"
# The upgrade comes first, the way back last. What the layout does not concern, the other fleets show.
(
    cd tests/fleet
    pytest -v -m "$chosen" test_upgrade.py::test_the_upgrade test_host.py test_conversation.py test_edge.py test_failures.py \
        test_hosts.py test_upgrade.py::test_the_way_back
)
