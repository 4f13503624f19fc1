#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The long trials, one after the other. Each trial has a line at the end: its name, its minutes, its
# command. Output goes to the terminal and to .lab/soak/NAME.log.
"$(dirname "$0")/../lab/prerequisites.sh" || exit
. "$(dirname "$0")/../lab/common.sh"

mkdir -p .lab/soak
summary=()
failed=0
trial() {
    local name=$1 minutes=$2 begin=$SECONDS outcome=passed
    shift 2
    echo "--- $name: about $minutes minutes, from $(date +%H:%M)"
    "$@" 2>&1 | tee ".lab/soak/$name.log" || { outcome=FAILED failed=$((failed + 1)); }
    summary+=("$(printf '%-10s %-7s %5d s of about %d' "$name" "$outcome" $((SECONDS - begin)) $((minutes * 60)))")
}
# Runs the service's tests from its folder, with NAME=VALUE… and arguments of pytest.
service() {
    env --chdir=files/wsserver "$@"
}

trial hostile 11 service HOSTILE_S=600 pytest -s tests/hostile/test_fuzz_load.py
trial tenant 13 service TENANT_S=60 pytest -s tests/hostile/test_tenant.py
trial search 20 service HYPOTHESIS_PROFILE=search pytest --timeout=3600 -v tests/properties
trial debian12 13 ci/one_host.sh debian12
trial hosts 40 env TENANT_S=60 ci/hosts.sh long
trial rolls 40 ci/rolls.sh
trial stores 25 ci/stores.sh
trial observer 45 ci/observer.sh
trial cores 3 ci/ansible_cores.sh
trial foreign 10 ci/foreign.sh long
trial upgrade 10 ci/debian_upgrade.sh

echo "--- summary"
printf '%s\n' "${summary[@]}"
echo "$((${#summary[@]} - failed)) passed, $failed failed"
[ "$failed" = 0 ]
