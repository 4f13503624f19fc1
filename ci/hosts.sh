#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The operator's path on several hosts: two with an edge and workers, and Redis and Postgres on a third.
# Two hosts have Debian 12, so that both Debians serve the same rooms. The collection is built and
# installed from its tarball into an empty project. So is the previous release, which is deployed first.
# A snapshot keeps hosts with the previous release, because deploying it tests nothing of this tree.
# While the hosts are bare, check mode runs on them. hosts.sh long also runs the tests that make test
# leaves out, and check mode always. hosts.sh clear removes the remains of a killed run.
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
bare_hosts() {
    lab/lab up --run "$run" --suite bookworm one back
    lab/lab up --run "$run" --suite trixie two
    inventory
}
site() { # PROJECT [OPTION…]
    (
        cd "$projects/$1"
        ANSIBLE_COLLECTIONS_PATH=$PWD/collections ansible-playbook -i "$fleet/inventory" selfhost.websocket.site "${@:2}"
    )
}
each_host() { # COMMAND
    local host
    for host in one two back; do
        lab/lab ssh --run "$run" "$host" "$1"
    done
}
# Each host would use what the others do not have yet: endpoints, secrets, the authority of certificates.
check_bare_hosts() {
    echo "--- check mode on bare hosts"
    each_host "touch /run/before-check"
    site current --check
    # It has written no program and no configuration.
    each_host "! find /etc /opt /usr /var/lib/dpkg/status -type f -newer /run/before-check -not -path '*/__pycache__/*' | grep ."
}

echo "--- collections"
previous=$(cat tests/fleet/previous_release)
mkdir "$projects/source"
git archive "$previous" | tar -x -C "$projects/source"
install "$projects/source" "$projects/previous"
install . "$projects/current"

export ANSIBLE_PIPELINING=true # less work for this machine; the rest is an operator's defaults
if [ "${1:-}" = long ]; then
    bare_hosts
    check_bare_hosts
    lab/lab down --run "$run"
fi

echo "--- previous release"
# The snapshot depends on these files, and on the month, because its certificates expire.
made_of=$( (date +%Y-%m; echo "$previous"; cat ci/hosts.sh lab/lab lab/labhosts/* lab/inventory requirements/dev.txt) | sha256sum)
snapshot=previous-release-${made_of:0:12}
status=0
lab/lab restore --run "$run" "$snapshot" || status=$?
case $status in
0) inventory ;;
3)
    bare_hosts
    [ "${1:-}" = long ] || check_bare_hosts
    site previous
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
# The upgrade comes first, the rollback last. Other fleets run the tests that do not depend on this layout.
(
    cd tests/fleet
    pytest -v -m "$chosen" test_upgrade.py::test_the_upgrade test_host.py test_conversation.py test_edge.py test_failures.py \
        test_tenant.py test_hosts.py test_upgrade.py::test_the_rollback_to_the_previous_release
)
