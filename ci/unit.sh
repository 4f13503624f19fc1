#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The tests that need no host: the service's own, those of the plugins, inventories that site.yml refuses, the alerts, and the benchmark's.
. "$(dirname "$0")/../lab/common.sh"

env --chdir=files/wsserver pytest --durations=20
pytest tests/unit
pytest tests/preflight
pytest tests/alerts
# The benchmark in small: that it works and counts right, not how fast anything is.
pytest bench
