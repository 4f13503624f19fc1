# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Decodes a push to Loki: a PushRequest of Loki's pkg/push/push.proto, compressed with Snappy."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

_Field = descriptor_pb2.FieldDescriptorProto


class Line(NamedTuple):
    labels: dict[str, str]
    ns: int
    text: str
    metadata: dict[str, str]


def lines(body: bytes) -> list[Line]:
    request = _PushRequest.FromString(bytes(cramjam.snappy.decompress_raw(body)))
    return [
        Line(
            _labels(stream.labels),
            entry.timestamp.ToNanoseconds(),
            entry.line,
            {pair.name: pair.value for pair in entry.structuredMetadata},
        )
        for stream in request.streams
        for entry in stream.entries
    ]


def _labels(text: str) -> dict[str, str]:
    """Parse labels such as {name="value", …}."""
    pair = r'(\w+)=("(?:[^"\\]|\\.)*")'
    assert re.fullmatch(rf"\{{{pair}(, {pair})*\}}", text), text
    return {name: json.loads(value) for name, value in re.findall(pair, text)}


def _push_request() -> Any:
    # Loki's file has further messages, which clients do not use.
    file = descriptor_pb2.FileDescriptorProto(name="push.proto", package="logproto", syntax="proto3")
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)

    def message(name: str, *fields: tuple[str, str, bool]) -> None:
        """Define a message. Fields, numbered from 1, have a type and may be repeated."""
        added = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind.startswith("."):
                added.field.add(name=field, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=kind)
            else:
                added.field.add(name=field, number=number, label=label, type=_Field.Type.Value(f"TYPE_{kind}"))

    message("PushRequest", ("streams", ".logproto.StreamAdapter", True), ("format", "STRING", False))
    message(
        "StreamAdapter",
        ("labels", "STRING", False),
        ("entries", ".logproto.EntryAdapter", True),
        ("hash", "UINT64", False),
    )
    message("LabelPairAdapter", ("name", "STRING", False), ("value", "STRING", False))
    message(
        "EntryAdapter",
        ("timestamp", ".google.protobuf.Timestamp", False),
        ("line", "STRING", False),
        ("structuredMetadata", ".logproto.LabelPairAdapter", True),
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("logproto.PushRequest"))


_PushRequest = _push_request()
