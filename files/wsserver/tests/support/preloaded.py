# SPDX-License-Identifier: MIT
"""The imports of the commands of `ws-server`: the fork server imports this module once."""

from __future__ import annotations

import uvloop  # noqa: F401

import wsserver.archive.migrate
import wsserver.cli
import wsserver.settings
import wsserver.telemetry.logs
import wsserver.witness.command
import wsserver.worker.components
import wsserver.worker.dev
import wsserver.worker.worker  # noqa: F401
