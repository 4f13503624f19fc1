#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The hosts of molecule's scenarios: molecule.sh create | destroy
. "$(dirname "$0")/../lab/common.sh"

run=molecule-$clone
case $1 in
create)
    lab/standins.sh
    lab/lab up --run "$run" --suite bookworm debian12
    lab/lab up --run "$run" --suite trixie debian13
    lab/inventory --run "$run" --directory .lab/molecule/debian12 debian12=ws_edge,ws_workers,ws_redis,ws_postgres
    lab/inventory --run "$run" --directory .lab/molecule/debian13 debian13=ws_edge,ws_workers,ws_redis,ws_postgres,ws_observability
    ;;
destroy)
    lab/lab down --run "$run"
    rm -rf .lab/molecule
    ;;
esac
