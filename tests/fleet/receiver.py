# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Decodes the requests that the fleet's Loki and Tempo receive. The lab's stand-ins store them byte
for byte."""

from __future__ import annotations

import base64
import time

import loki_push
from fleet import Fleet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.collector import Received, received

# Files are named after the nanosecond. This command prints files after a given one.
_NEWER = "cd {directory}; for file in $(ls | awk '$0 > \"{after}\"'); do echo $file $(base64 -w0 $file); done"


class Receiver:
    def __init__(self, fleet: Fleet, host: str) -> None:
        self.host = host
        self._fleet = fleet
        self._spans: list[Received] = []
        self._lines: list[loki_push.Line] = []
        now = str(time.time_ns())
        self._last = {"tempo": now, "loki": now}

    @property
    def standing_in(self) -> bool:
        return "standin" in self._fleet.ssh(self.host, "dpkg-query -W -f '${Version}' tempo loki 2>&1", check=False)

    def spans(self) -> list[Received]:
        """All OTLP spans that the workers have sent since this receiver was created."""
        for body in self._new("tempo"):
            self._spans += received(ExportTraceServiceRequest.FromString(body))
        return self._spans

    def lines(self) -> list[loki_push.Line]:
        """All lines that were pushed to Loki since this receiver was created."""
        for body in self._new("loki"):
            self._lines += loki_push.lines(body)
        return self._lines

    def _new(self, program: str) -> list[bytes]:
        command = _NEWER.format(directory=f"/var/lib/ws-{program}/received", after=self._last[program])
        bodies = []
        for line in self._fleet.ssh(self.host, command).splitlines():
            self._last[program], _space, body = line.partition(" ")
            bodies.append(base64.b64decode(body))
        return bodies
