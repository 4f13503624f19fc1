#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The whole fleet on one host: check mode while it is bare, a deployment, a second run that changes
# nothing, and tests/fleet. one_host.sh SCENARIO [PYTEST-OPTION…], a scenario of molecule's.
. "$(dirname "$0")/../lab/common.sh"

scenario=$1
trap 'ci/molecule.sh destroy' EXIT
play() { # VERB
    echo "--- $1"
    molecule "$1" --scenario-name "$scenario"
}
play create
(. ci/fast_ansible.sh && play check)
play converge
(. ci/fast_ansible.sh && play idempotence)

echo "--- tests/fleet"
. ci/fast_ansible.sh
fleet=$PWD/.lab/molecule/$scenario
lab/lab ssh --run "molecule-$clone" "$scenario" cat /etc/ssl/ws/ca.pem >"$fleet/ca.pem"
WS_FLEET_STATUS=$fleet/status.json pytest -v "${@:2}" tests/fleet
