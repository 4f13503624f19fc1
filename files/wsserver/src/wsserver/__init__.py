# SPDX-License-Identifier: MIT
"""A WebSocket service: rooms whose acknowledged messages reach every subscriber once and in order."""

__version__ = "0.1.0"
