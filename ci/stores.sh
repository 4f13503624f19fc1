#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Moves Redis and Postgres from the host of a whole fleet to a bare host, and back. Then moves each of them alone in a fleet of two
# worker hosts, to a host that already has another Redis and another database. stores.sh both and stores.sh each
# run one of the two trials.
. "$(dirname "$0")/../lab/common.sh"

run=stores-$clone
fleet=$PWD/.lab/stores
trap 'lab/lab down --run "$run"' EXIT

deploy() { # OPTION… HOST=GROUP,…
    lab/inventory --run "$run" --directory "$fleet" "$@"
    ansible-playbook -i "$fleet/inventory" playbooks/site.yml
    lab/lab ssh --run "$run" one cat /etc/ssl/ws/ca.pem >"$fleet/ca.pem"
}

lab/lab down --run "$run"
if [ "${1:-both}" = both ]; then
    lab/lab up --run "$run" one two
    deploy one=ws_edge,ws_workers,ws_redis,ws_postgres two=ws_spare
    WS_FLEET_STATUS=$fleet/status.json pytest -s -m stores -k "not alone" tests/fleet
    lab/lab down --run "$run"
fi
if [ "${1:-each}" = each ]; then
    lab/lab up --run "$run" one two
    lab/lab ssh --run "$run" two sh -s <<'SHOP'
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y redis-server postgresql >/dev/null 2>&1
redis-cli set shop:1 apples
redis-cli save
runuser -u postgres -- psql -qc "CREATE DATABASE shop"
runuser -u postgres -- psql -q shop -c "CREATE TABLE goods (name text)" -c "INSERT INTO goods VALUES ('apples')"
SHOP
    deploy --variable ws_server_instances=2 one=ws_edge,ws_workers,ws_redis,ws_postgres two=ws_workers
    WS_FLEET_STATUS=$fleet/status.json pytest -s -m stores -k alone tests/fleet
fi
