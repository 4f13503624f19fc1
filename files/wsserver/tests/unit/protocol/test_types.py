# SPDX-License-Identifier: MIT
from __future__ import annotations

from wsserver.protocol.types import Position


def test_positions_order_as_the_log_does() -> None:
    assert Position(1, 9) < Position(2, 0) < Position(2, 0).next() == Position(2, 1)
