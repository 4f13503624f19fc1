# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Animated PNG files: a picture with a palette, then the changed rectangle of each frame."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import count

# The palette index of a pixel that keeps the colour of the earlier frames.
UNCHANGED = 0
_PALETTE = 3
_KEEP, _OVER = 0, 1


def animation(
    width: int, height: int, colours: Sequence[tuple[int, int, int]], frames: Sequence[tuple[bytes, float]]
) -> bytes:
    """Return the file. A frame has its pixels, one byte each with the index of a colour, and its seconds on the screen.

    No frame uses colour 0 (`UNCHANGED`).
    """
    number = count()
    body: list[bytes] = []
    shown: bytes | None = None
    for pixels, seconds in frames:
        left, top, columns, rows = (0, 0, width, height) if shown is None else _changed(shown, pixels, width, height)
        place = struct.pack(">IIIII", next(number), columns, rows, left, top)
        body.append(_chunk(b"fcTL", place + struct.pack(">HHBB", round(seconds * 1000), 1000, _KEEP, _OVER)))
        lines = (slice(y * width + left, y * width + left + columns) for y in range(top, top + rows))
        # Filter 0 begins each line: the bytes are not filtered.
        data = zlib.compress(b"".join(b"\0" + _difference(shown, pixels, line) for line in lines), 9)
        if shown is None:
            body.append(_chunk(b"IDAT", data))
        else:
            body.append(_chunk(b"fdAT", struct.pack(">I", next(number)) + data))
        shown = pixels
    palette = b"".join(map(bytes, [(0, 0, 0), *colours[1:]]))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _PALETTE, 0, 0, 0)),
            _chunk(b"PLTE", palette),
            _chunk(b"tRNS", b"\0"),
            _chunk(b"acTL", struct.pack(">II", len(frames), 0)),
            *body,
            _chunk(b"IEND", b""),
        ]
    )


def _changed(before: bytes, now: bytes, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the smallest rectangle with all pixels that differ; one pixel if none does."""
    rows = [y for y in range(height) if before[y * width : (y + 1) * width] != now[y * width : (y + 1) * width]]
    if not rows:
        return 0, 0, 1, 1
    columns = [x for x in range(width) if before[x::width] != now[x::width]]
    return columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]


def _difference(before: bytes | None, now: bytes, line: slice) -> bytes:
    if before is None:
        return now[line]
    return bytes(new if new != old else UNCHANGED for old, new in zip(before[line], now[line], strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
