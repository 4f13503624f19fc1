#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The whole fleet on one host: check mode while it is bare, a deployment, a second run that changes
# nothing while no package source answers, and tests/fleet. one_host.sh SCENARIO [PYTEST-OPTION…], a
# scenario of molecule's.
. "$(dirname "$0")/../lab/common.sh"

scenario=$1
trap 'ci/molecule.sh destroy' EXIT
play() { # VERB
    echo "--- $1"
    molecule "$1" --scenario-name "$scenario"
}
play create
(. lab/fast_ansible.sh && play check)
play converge
# Everything is installed, so the second run needs no source. The lists are old enough for a
# refresh.
host() {
    lab/lab ssh --run "molecule-$clone" "$scenario" "$@"
}
unreachable=/etc/apt/apt.conf.d/zz-unreachable
host "printf 'Acquire::%s::Proxy \"http://127.0.0.1:9\";\n' http https >$unreachable"
host "find /var/lib/apt/lists /var/lib/apt/periodic -exec touch --date '2 days ago' {} +"
host "! apt-get -qq --error-on=any update 2>/dev/null"
(. lab/fast_ansible.sh && play idempotence)
host "rm $unreachable && apt-get -qq update"

echo "--- tests/fleet"
. lab/fast_ansible.sh
fleet=$PWD/.lab/molecule/$scenario
host cat /etc/ssl/ws/ca.pem >"$fleet/ca.pem"
WS_FLEET_STATUS=$fleet/status.json pytest -v "${@:2}" tests/fleet
