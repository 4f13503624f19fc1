#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The hosts of molecule's scenarios: molecule.sh create | destroy
. "$(dirname "$0")/common.sh"

run=molecule-$clone
case $1 in
create)
    lab/standins.sh
    lab/lab up --run "$run" --suite bookworm debian12
    lab/lab up --run "$run" --suite trixie debian13
    for host in debian12 debian13; do
        lab/inventory --run "$run" --directory ".lab/molecule/$host" "$host=ws_edge,ws_workers,ws_redis,ws_postgres,ws_observability"
    done
    ;;
destroy)
    lab/lab down --run "$run"
    rm -rf .lab/molecule
    ;;
esac
