# SPDX-License-Identifier: MIT
"""Patterns of room names: `*` stands for any characters, or none, and `{sub}` for the user.

All else is literal, and so is the user's name: patterns are split at their stars before the user is
filled in. A match takes one pass over the room's name for each pattern, without backtracking.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

Patterns = tuple[str, ...]

EVERYWHERE: Patterns = ("*",)
COUNT_MAX = 64
LENGTH_MAX = 128
# The number of lists of patterns; many connections share a list. To prepare a dropped list again
# takes microseconds.
_REMEMBERED = 4096


def matches(patterns: Patterns, room: str, user: str) -> bool:
    """Whether any of `patterns`, with `user` filled in, is a pattern of `room`."""
    if patterns == EVERYWHERE:
        return True
    return any(_matches(pieces, room, user) for pieces in _taken_apart(patterns))


def any_of(patterns: Patterns) -> Callable[[str], bool]:
    """Whether `room` matches any of `patterns`, which do not name a user."""
    return lambda room: matches(patterns, room, user="")


def checked(claim: str, value: object) -> Patterns:
    """The patterns in a claim called `claim`.

    Raises ValueError, whose text does not repeat the value.
    """
    if not isinstance(value, list | tuple) or len(value) > COUNT_MAX or not all(map(_is_pattern, value)):
        raise ValueError(
            f"{claim} must be a list of at most {COUNT_MAX} patterns, each of 1 to {LENGTH_MAX} printable characters"
        )
    return _shared(tuple(value))


def _is_pattern(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= LENGTH_MAX and value.isprintable()


@lru_cache(_REMEMBERED)
def _shared(patterns: Patterns) -> Patterns:
    """One object for all connections with the same patterns."""
    return patterns


@lru_cache(_REMEMBERED)
def _taken_apart(patterns: Patterns) -> tuple[list[str], ...]:
    return tuple(pattern.split("*") for pattern in patterns)


def _matches(pieces: list[str], room: str, user: str) -> bool:
    first, *between = [piece.replace("{sub}", user) for piece in pieces]
    if not between:
        return room == first
    last = between.pop()
    if not room.startswith(first) or not room.endswith(last, len(first)):
        return False
    # The leftmost place for each piece leaves the most room for the next.
    place, end = len(first), len(room) - len(last)
    for piece in between:
        place = room.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True
