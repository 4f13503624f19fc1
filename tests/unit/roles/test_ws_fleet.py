# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""ws-fleet reports a fault of Prometheus in one line."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

from program import ROOT


def test_a_prometheus_that_hangs_up_is_reported_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            connection, _address = server.accept()
            with connection:
                connection.recv(4096)

        threading.Thread(target=hang_up, daemon=True).start()
        done = subprocess.run(
            [
                sys.executable,
                ROOT / "roles/prometheus/files/ws_fleet.py",
                f"http://127.0.0.1:{server.getsockname()[1]}",
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("ws-fleet: Prometheus does not answer: ")
    assert done.stderr.count("\n") == 1
