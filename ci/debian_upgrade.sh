#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Upgrades the host of a whole fleet from Debian 12 to 13 in place, with the commands of
# docs/operations.md. The edge has a certificate of a private authority, which the rollout after the
# upgrade and Prometheus have to trust.
. "$(dirname "$0")/../lab/common.sh"

run=upgrade-$clone
fleet=$PWD/.lab/debian_upgrade
# The lab keeps the packages of a host for later hosts of the same Debian, and those of Debian 13 do
# not belong there. A host that did not start, or ended, has no such packages.
trap 'lab/lab ssh --run "$run" one apt-get clean || :; lab/lab down --run "$run"' EXIT

lab/lab down --run "$run"
lab/lab up --run "$run" --suite bookworm one
lab/standins.sh
variables=(
    nginx_tls_mode=files nginx_tls_ca="$fleet/ca.pem" nginx_tls_certificate="$fleet/edge.pem" nginx_tls_certificate_key="$fleet/edge.key"
    ws_server_instances=2 ws_server_room_log_length=10 'ws_server_durable_rooms=["orders:*"]'
)
lab/inventory --run "$run" --directory "$fleet" "${variables[@]/#/--variable=}" one=ws_edge,ws_workers,ws_redis,ws_postgres,ws_observability
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["hosts"]["one"]["address"])' "$fleet/status.json")
certificate() { # NAME OPTION…
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -keyout "$fleet/$1.key" -out "$fleet/$1.pem" "${@:2}"
}
certificate ca -subj "/CN=a private authority"
certificate edge -subj "/CN=$address" -addext "subjectAltName=IP:$address" -addext basicConstraints=critical,CA:FALSE \
    -CA "$fleet/ca.pem" -CAkey "$fleet/ca.key"
ansible-playbook -i "$fleet/inventory" playbooks/site.yml
WS_FLEET_STATUS=$fleet/status.json pytest -s -x -m debian_upgrade tests/fleet
