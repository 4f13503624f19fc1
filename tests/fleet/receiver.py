# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""What the fleet's Loki and Tempo were sent. In the lab packages stand in for them, and keep it byte for byte; here it is decoded."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from fleet import Fleet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.collector import Received, received

_SPLIT = "for file in $(ls {directory}/*.{kind} 2>/dev/null | tail -n 400); do base64 -w0 $file; echo; done"


class Line(NamedTuple):
    labels: dict[str, str]
    ns: int
    text: str
    metadata: dict[str, str]


class Receiver:
    def __init__(self, fleet: Fleet, host: str) -> None:
        self.host = host
        self._fleet = fleet

    @property
    def standing_in(self) -> bool:
        return "standin" in self._fleet.ssh(self.host, "dpkg-query -W -f '${Version}' tempo loki 2>&1", check=False)

    def spans(self) -> list[Received]:
        """Of OTLP, in protobuf, as the workers send it."""
        return [
            span
            for body in self._bodies("tempo", "pb")
            for span in received(ExportTraceServiceRequest.FromString(body))
        ]

    def lines(self) -> list[Line]:
        """Of pushes to Loki, in JSON."""
        pushes: list[dict[str, Any]] = [json.loads(body) for body in self._bodies("loki", "json")]
        return [
            Line(stream["stream"], int(value[0]), value[1], value[2] if len(value) > 2 else {})
            for push in pushes
            for stream in push["streams"]
            for value in stream["values"]
        ]

    def _bodies(self, program: str, kind: str) -> list[bytes]:
        command = _SPLIT.format(directory=f"/var/lib/ws-{program}/received", kind=kind)
        return [base64.b64decode(line) for line in self._fleet.ssh(self.host, command).split()]
