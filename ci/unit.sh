#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The tests that need neither root nor hosts: unit.sh [service | rest]. Without an argument, both
# parts run side by side, because many tests wait, and the output of "rest" follows the output of
# "service". In each part, the first suite that fails ends the run.
"$(dirname "$0")/../lab/environment.sh" || exit
. "$(dirname "$0")/../lab/common.sh"

missing=()
for program in chromium nginx node openssl php promtool redis-server; do
    PATH=$PATH:/usr/sbin command -v $program >/dev/null || missing+=("$program")
done
compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || missing+=(postgresql)
if [ ${#missing[@]} -gt 0 ]; then
    echo "These tests run programs that are not installed: ${missing[*]}. lab/prerequisites.sh installs them, as root." >&2
    exit 2
fi

# The directory is in memory, as in make test: on a busy disk a Redis or Postgres of the tests
# answers some writes after seconds.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then
    TMPDIR=$(mktemp -d /dev/shm/ws-unit-XXXXXX)
    export TMPDIR
    chmod 755 "$TMPDIR"  # root's Postgres runs as nobody
    trap 'rm -rf "$TMPDIR"' EXIT
fi

summary=()
suite() {
    local name=$1 begin=$SECONDS
    shift
    echo "--- $name"
    "$@"
    summary+=("$(printf '%4d s  %s' $((SECONDS - begin)) "$name")")
}
# With worksteal, an idle process takes over tests of a busy process.
beside="-v -n ${WS_TEST_PROCESSES:-$((2 * $(nproc)))} --dist worksteal"

service() {
    # shellcheck disable=SC2086
    suite "the service" env --chdir=files/wsserver pytest $beside --durations=20
}
rest() {
    # shellcheck disable=SC2086
    suite "modules, plugins and roles" pytest $beside tests/unit
    # Each file stays in one process, because the cases of test_fleets.py share their runs.
    suite "refused inventories" pytest -v -n 2 --dist loadfile tests/preflight
    # A small benchmark run tests that the benchmark works and counts correctly, not any speed.
    suite "the benchmark in small" pytest -v bench
    suite "alerts" pytest -v -n "$(nproc)" tests/alerts
}
case ${1:-} in
service | rest)
    "$1"
    printf '%s\n' "${summary[@]}"
    ;;
"")
    log=$(mktemp)
    "$0" rest >"$log" 2>&1 &
    rest=$!
    failed=0
    "$0" service || failed=1
    wait "$rest" || failed=1
    cat "$log"
    rm "$log"
    exit "$failed"
    ;;
esac
