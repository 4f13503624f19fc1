# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The recording shows the tutorial's code with the addresses of the fleet, and every picture that
was taken."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageSequence
from verbs import record
from verbs.record import _CODE, at_fleet, code


def test_the_tutorial_is_moved_to_the_fleet() -> None:
    moved = {file: at_fleet(code(language), "192.0.2.1", 1234, 5678) for file, language in _CODE.items()}
    assert 'new Client("wss://192.0.2.1/ws"' in moved["app.js"]
    assert "https://192.0.2.1/events?room=stats" in moved["app.js"]
    assert 'client.join("lobby-1234", {' in moved["app.js"]
    assert 'API = "http://127.0.0.1:5678/v1"' in moved["app.py"]
    assert 'ThreadingHTTPServer(("127.0.0.1", 1234), App)' in moved["app.py"]
    assert '["lobby-1234", "lobby-1234:typing"]' in moved["app.py"]
    for old in (":8000", ":9080", "5000", '"lobby"'):
        assert old not in "".join(moved.values())


def png(*colours: tuple[int, int, int]) -> bytes:
    """A picture with a column for each colour."""
    picture = Image.new("RGB", (len(colours), 8))
    for column, colour in enumerate(colours):
        picture.paste(colour, (column, 0, column + 1, 8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_the_file_has_all_pictures_with_their_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_PICTURE", tmp_path / "roll.webp")
    white, grey, red = (255, 255, 255), (136, 136, 136), (255, 0, 17)
    record.write([png(white, grey), png(white, red), png((250, 4, 20), red)])
    shown = Image.open(tmp_path / "roll.webp")
    pixels, times = [], []
    for frame in ImageSequence.Iterator(shown):
        frame.load()
        pixels.append([frame.convert("RGB").getpixel((x, 3)) for x in range(2)])
        times.append(frame.info["duration"])
    assert pixels == [[white, grey], [white, red], [(255, 0, 17), red]]
    assert times == [250, 250, 4000]
