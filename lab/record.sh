#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# Records docs/pictures/roll.webp: a chat in two windows on the fleet of make up, while make roll
# replaces its workers.
. "$(dirname "$0")/common.sh"

PYTHONPATH=lab:files/wsserver/src exec python -m verbs.record --run "up-$clone"
