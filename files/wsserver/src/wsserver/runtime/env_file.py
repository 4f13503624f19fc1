# SPDX-License-Identifier: MIT
"""Environment files as systemd reads them (EnvironmentFile=), so that a command sees what the unit
sees.
"""

from __future__ import annotations

import re

# Quotes count only where the value begins or another quoted piece ends; what is not closed runs to
# the end.
_ASSIGNMENT = re.compile(
    r"""^[^\S\n]*(?![#;\s])(?P<name>[^=\n]*?)[^\S\n]*=
        (?P<quoted>(?:[^\S\n]*(?:'[^']*(?:'|\Z)|"(?:\\.|[^"\\])*(?:"|\Z)))*)
        [^\S\n]*(?P<plain>(?:\\.|[^\\\n])*)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_PIECE = re.compile(r"""'(?P<single>[^']*)'?|"(?P<double>(?:\\.|[^"\\])*)"?""", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def parse(text: str) -> dict[str, str]:
    """The variables that `text` sets; systemd ignores every other line."""
    return {
        found["name"]: "".join(map(_quoted, _PIECE.finditer(found["quoted"]))) + _plain(found["plain"])
        for found in _ASSIGNMENT.finditer(text)
        if _NAME.fullmatch(found["name"])
    }


def _quoted(piece: re.Match[str]) -> str:
    if piece["double"] is None:
        return piece["single"]
    return _ESCAPE.sub(lambda escape: _unescaped(escape, only='"\\`$\n'), piece["double"])


def _plain(text: str) -> str:
    return _ESCAPE.sub(_unescaped, text.rstrip())


def _unescaped(escape: re.Match[str], only: str | None = None) -> str:
    if only is not None and escape[1] not in only:
        return escape[0]
    return escape[1].replace("\n", "")  # a continued line
