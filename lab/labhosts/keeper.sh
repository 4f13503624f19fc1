#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Runs one host until it is powered off: keeper.sh systemd-nspawn ARGUMENTS…
# The reboot of a host ends its systemd-nspawn with status 133. This script then starts the host again, each time from the
# control groups in LAB_CGROUPS (nspawn moves itself further down).

while :; do
    (
        for group in $LAB_CGROUPS; do
            echo 0 >"$group/cgroup.procs"
        done
        unset LAB_CGROUPS
        exec "$@"
    )
    status=$?
    echo "systemd-nspawn ended with status $status"
    [ "$status" = 133 ] || exit "$status"
done
