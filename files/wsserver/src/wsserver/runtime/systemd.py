# SPDX-License-Identifier: MIT
"""Notifications to systemd (sd_notify); does nothing without systemd."""

from __future__ import annotations

import functools
import os
import socket


def notify(state: str) -> bool:
    """Send one state, such as READY=1 or WATCHDOG=1. Returns whether systemd has it.

    Never blocks or raises: a systemd that does not answer must not stop the event loop.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return True
    try:
        _socket().sendto(state.encode(), address.replace("@", "\0", 1))
    except OSError:
        return False
    return True


@functools.cache
def _socket() -> socket.socket:
    """Kept open: a process that has no file descriptors left must still feed the watchdog."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
