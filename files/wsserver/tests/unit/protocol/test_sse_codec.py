# SPDX-License-Identifier: MIT
from __future__ import annotations

import msgspec

from wsserver.protocol.events import Delivery, Reconnect
from wsserver.protocol.sse_codec import SseCodec
from wsserver.protocol.types import Position


def test_line_breaks_between_the_parts_of_json_do_not_end_the_data() -> None:
    delivery = Delivery("r", 1, "u", 0.0, msgspec.Raw(b'{\r\n"a":\n1}'))
    frame = SseCodec().frame(delivery, Position(5, 1))
    assert frame.startswith(b"id: 5-1\ndata: ")
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame


def test_a_reconnect_has_its_retry_time() -> None:
    assert SseCodec().frame(Reconnect(250, "")).startswith(b"retry: 250\nevent: reconnect\n")
