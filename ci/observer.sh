#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# All tests of the monitoring, on a separate host beside two worker hosts, with Debian 12 and 13.
. "$(dirname "$0")/../lab/common.sh"

run=observer-$clone
fleet=$PWD/.lab/observer
trap 'lab/lab down --run "$run"' EXIT

lab/lab down --run "$run"
lab/lab up --run "$run" --suite bookworm one observer
lab/lab up --run "$run" --suite trixie two
lab/standins.sh
lab/inventory --run "$run" --directory "$fleet" one=ws_edge,ws_workers,ws_redis,ws_postgres two=ws_workers observer=ws_observability
ansible-playbook -i "$fleet/inventory" playbooks/site.yml
lab/lab ssh --run "$run" one cat /etc/ssl/ws/ca.pem >"$fleet/ca.pem"
(
    cd tests/fleet
    WS_FLEET_STATUS=$fleet/status.json pytest -s -m "not rolls and not hosts and not stores and not debian_upgrade" test_observability.py test_alerts.py test_dashboards.py \
        test_traces_and_logs.py test_host.py::test_only_the_edge_listens_publicly
)
