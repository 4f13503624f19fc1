# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The benchmark: this service, nats-server, nchan, socket.io and a plain `websockets` server."""
