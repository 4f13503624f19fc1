# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The recording shows the tutorial's code, with the addresses of the fleet."""

from __future__ import annotations

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
