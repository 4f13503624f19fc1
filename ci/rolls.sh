#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Rollouts that must stop, that are killed and that wait, on a separate fleet.
. "$(dirname "$0")/../lab/common.sh"

run=rolls-$clone
fleet=$PWD/.lab/rolls
trap 'lab/lab down --run "$run"' EXIT

lab/lab down --run "$run"
lab/lab up --run "$run" fleet
lab/inventory --run "$run" --directory "$fleet" fleet=ws_edge,ws_workers,ws_redis,ws_postgres
ansible-playbook -i "$fleet/inventory" playbooks/site.yml
lab/lab ssh --run "$run" fleet cat /etc/ssl/ws/ca.pem >"$fleet/ca.pem"
WS_FLEET_STATUS=$fleet/status.json pytest -s -m rolls tests/fleet
