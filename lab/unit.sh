#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The tests that need no host: the service's own, those of the plugins, and inventories that site.yml refuses.
. "$(dirname "$0")/common.sh"

env --chdir=files/wsserver pytest
PYTHONPATH=lab/collections pytest tests/unit
pytest tests/preflight
