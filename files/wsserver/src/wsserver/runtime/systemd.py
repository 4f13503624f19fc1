# SPDX-License-Identifier: MIT
"""Notifications to systemd (sd_notify); does nothing without systemd."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send one state, such as READY=1 or WATCHDOG=1."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify_socket:
            notify_socket.sendto(state.encode(), address.replace("@", "\0", 1))
