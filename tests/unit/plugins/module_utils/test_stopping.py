# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The unit's TimeoutStopSec covers all deadlines of a stop. The service's test_stop.py stops a worker on a hung Redis."""

from __future__ import annotations

import pytest
from wsserver.admin import control_socket
from wsserver.api import server as api
from wsserver.archive import postgres
from wsserver.telemetry import otlp
from wsserver.transport import drain
from wsserver.worker import components

from ansible_collections.selfhost.websocket.plugins.filter.stop_timeout import FilterModule
from ansible_collections.selfhost.websocket.plugins.module_utils._stopping import stop_timeout


def longest_stop_s(drain_window_s: float) -> float:
    """The sum of the deadlines in Worker.run, of which each step's parts run at the same time."""
    clients_leave = max(drain_window_s + drain._GRACE_S + drain._CLOSE_WAIT_S, api._FINISH_S)
    servers_end = max(api._CLOSE_S, control_socket._FINISH_S)
    background_ends = postgres._CLOSE_TIMEOUT_S
    counts_and_traces = max(components._STOP_S, otlp._STOP_S)
    return clients_leave + servers_end + background_ends + counts_and_traces


@pytest.mark.parametrize("window", [0, 0.5, 5, 20, 600])
def test_the_timeout_covers_all_deadlines_and_a_busy_host(window):
    assert stop_timeout(window) >= longest_stop_s(window) + 8
    assert stop_timeout(window) <= window + 26, "a hung worker must not hold up a shutdown"


def test_a_default_window_has_half_a_minute():
    assert stop_timeout("5") == stop_timeout(5.0) == 30


def test_the_filter():
    assert FilterModule().filters() == {"stop_timeout": stop_timeout}
