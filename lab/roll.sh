#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Rolls the fleet of make up while 500 clients talk over it, and says what they saw of it. roll.sh [PLAYBOOK]: rolling_update, or
# rolling_restart or rollback. An update that finds nothing new rolls nothing; then rolling_restart shows the same.
. "$(dirname "$0")/common.sh"

playbook=${1:-rolling_update}
case $playbook in
rolling_update | rolling_restart | rollback) ;;
*)
    echo "PLAYBOOK is $playbook: make it rolling_update, rolling_restart or rollback." >&2
    exit 2
    ;;
esac
[ -e .lab/up/ca.pem ] || {
    echo "There is no fleet: make up makes one." >&2
    exit 2
}
url=$(python -c 'import json; print(json.load(open(".lab/up/status.json"))["url"])')
# shellcheck disable=SC2016 # expands on the host
secret=$(lab/lab ssh --run "up-$clone" fleet '. /etc/ws-server/env; echo "$WS_JWT_SECRET"')

report=.lab/up/witness.txt
PYTHONPATH=files/wsserver/src python -m wsserver witness "$url" --ca-file .lab/up/ca.pem --jwt-secret-file <(echo "$secret") \
    --connections 500 --rooms 50 --publishers 4 --rate 100 >"$report" 2>.lab/up/witness.log &
witness=$!
trap 'kill $witness 2>/dev/null || true' EXIT # it may have ended by itself
echo "500 clients join."
until grep -q '504 of 504 connected, [1-9]' .lab/up/witness.log; do
    if ! kill -0 $witness 2>/dev/null; then
        tail -n 5 .lab/up/witness.log >&2
        exit 1
    fi
    sleep 1
done

rolled=0
ansible-playbook -i .lab/up/inventory "playbooks/$playbook.yml" || rolled=$?
sleep 3
kill -INT $witness 2>/dev/null || true # it ends early when clients do not get in
kept=0
wait $witness || kept=$?
trap - EXIT
echo
echo "What the clients saw of it:"
echo
cat "$report"
if [ ! -s "$report" ]; then
    tail -n 5 .lab/up/witness.log >&2
fi
exit $((rolled ? rolled : kept))
