# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Animated PNG files show the frames that they were made from."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from verbs import apng

_WIDTH, _HEIGHT = 5, 4
_COLOURS = [(0, 0, 0), (255, 255, 255), (20, 40, 60)]


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert file.startswith(b"\x89PNG\r\n\x1a\n")
    place = 8
    while place < len(file):
        [size] = struct.unpack_from(">I", file, place)
        kind, data = file[place + 4 : place + 8], file[place + 8 : place + 8 + size]
        assert struct.unpack_from(">I", file, place + 8 + size) == (zlib.crc32(kind + data),)
        yield kind, data
        place += size + 12


def _shown(file: bytes) -> list[tuple[bytes, int]]:
    """The frames, as a reader of the format composes them, and their milliseconds."""
    canvas = bytearray(_WIDTH * _HEIGHT)
    frames: list[tuple[bytes, int]] = []
    numbers: list[int] = []
    for kind, data in _chunks(file):
        if kind == b"fcTL":
            number, columns, rows, left, top, milliseconds, unit, dispose, blend = struct.unpack(">IIIIIHHBB", data)
            assert (unit, dispose, blend) == (1000, 0, 1)
            numbers.append(number)
        elif kind in (b"IDAT", b"fdAT"):
            numbered = kind == b"fdAT"
            if numbered:
                numbers.append(struct.unpack_from(">I", data)[0])
            lines = zlib.decompress(data[4:] if numbered else data)
            for y in range(rows):
                line = lines[y * (columns + 1) : (y + 1) * (columns + 1)]
                assert line[0] == 0
                for x, pixel in enumerate(line[1:]):
                    if pixel != apng.UNCHANGED:
                        canvas[(top + y) * _WIDTH + left + x] = pixel
            frames.append((bytes(canvas), milliseconds))
    assert numbers == list(range(len(numbers)))
    return frames


def test_a_reader_composes_the_frames_again() -> None:
    blank = bytes([1]) * (_WIDTH * _HEIGHT)
    dot = bytearray(blank)
    dot[1 * _WIDTH + 3] = 2
    line = bytearray(dot)
    line[2 * _WIDTH : 3 * _WIDTH] = bytes([2]) * _WIDTH
    frames = [(blank, 0.25), (bytes(dot), 0.25), (bytes(dot), 1.5), (bytes(line), 0.1), (blank, 3)]
    file = apng.animation(_WIDTH, _HEIGHT, _COLOURS, frames)
    assert _shown(file) == [(pixels, round(seconds * 1000)) for pixels, seconds in frames]
    chunks = dict(_chunks(file))
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (_WIDTH, _HEIGHT, 8, 3, 0, 0, 0)
    assert struct.unpack(">II", chunks[b"acTL"]) == (len(frames), 0)
    assert [tuple(chunks[b"PLTE"][i : i + 3]) for i in (3, 6)] == _COLOURS[1:]
    assert chunks[b"tRNS"] == b"\0"


def test_a_frame_holds_only_what_changed() -> None:
    blank = bytes([1]) * (_WIDTH * _HEIGHT)
    dot = bytearray(blank)
    dot[2 * _WIDTH + 1] = 2
    [_, second] = [
        data
        for kind, data in _chunks(apng.animation(_WIDTH, _HEIGHT, _COLOURS, [(blank, 1), (bytes(dot), 1)]))
        if kind == b"fcTL"
    ]
    assert struct.unpack_from(">IIIII", second) == (1, 1, 1, 1, 2)
