# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long systemd waits for a worker that stops."""

from __future__ import annotations

import math

# After the window, the last clients close, and the worker waits for requests of the server API, for
# Postgres, Redis and the collector of traces: 13 s if all of them hang. The rest is for a busy host
# with many clients. test_stopping.py compares this with the service's deadlines.
_BESIDES_THE_WINDOW_S = 25


def stop_timeout(drain_window_s: float | str) -> int:
    """Return the unit's TimeoutStopSec for a drain window, in whole seconds."""
    return math.ceil(float(drain_window_s)) + _BESIDES_THE_WINDOW_S
