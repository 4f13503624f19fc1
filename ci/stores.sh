#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Moves Redis and Postgres from the host of a whole fleet to a bare host, and back.
. "$(dirname "$0")/../lab/common.sh"

run=stores-$clone
fleet=$PWD/.lab/stores
trap 'lab/lab down --run "$run"' EXIT

lab/lab down --run "$run"
lab/lab up --run "$run" one two
lab/inventory --run "$run" --directory "$fleet" one=ws_edge,ws_workers,ws_redis,ws_postgres two=ws_spare
ansible-playbook -i "$fleet/inventory" playbooks/site.yml
lab/lab ssh --run "$run" one cat /etc/ssl/ws/ca.pem >"$fleet/ca.pem"
WS_FLEET_STATUS=$fleet/status.json pytest -s -m stores tests/fleet
