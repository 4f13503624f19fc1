# SPDX-License-Identifier: MIT
from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsserver.auth import EVERYWHERE, Identity, any_of, matches
from wsserver.auth.patterns import checked

# Few characters, so that many names match. Some have a meaning here, in fnmatch or in regular
# expressions.
_ALPHABET = "ab:*{}.?[]\\"
_text = st.text(st.sampled_from(_ALPHABET), max_size=12)
_pattern = st.lists(_text | st.sampled_from(["*", "{sub}", "**", "user:{sub}:*"]), min_size=1, max_size=4).map("".join)
_user = st.text(st.sampled_from(_ALPHABET), min_size=1, max_size=4) | st.sampled_from(["*", "{sub}", "a*", "*{sub}*"])


def reference(pattern: str, room: str, user: str) -> bool:
    """The same pattern as a regular expression."""
    meaning = {"*": ".*", "{sub}": re.escape(user)}
    pieces = re.split(r"(\*|\{sub\})", pattern)
    return re.fullmatch("".join(meaning.get(piece, re.escape(piece)) for piece in pieces), room, re.DOTALL) is not None


@given(_pattern, _text, _user)
@example("a*a", "a", "u")
@example("ab*ba", "aba", "u")
@example("*a*a*", "a", "u")
@example("user:{sub}", "user:anyone", "*")
@example("user:{sub}:*", "user:a:b", "*")
@example("{sub}", "{sub}", "{sub}")
def test_a_pattern_means_what_the_reference_says(pattern: str, room: str, user: str) -> None:
    assert matches((pattern,), room, user) == reference(pattern, room, user)


@given(_pattern, st.lists(_text, min_size=8, max_size=8), _user)
def test_rooms_made_from_a_pattern_match_it(pattern: str, fillings: list[str], user: str) -> None:
    rest = iter(fillings * 16)
    pieces = (piece.replace("{sub}", user) for piece in pattern.split("*"))
    room = "".join(piece + filling for piece, filling in zip(pieces, rest, strict=False))
    if not pattern.endswith("*"):
        room = room.removesuffix(fillings[pattern.count("*") % 8])
    assert matches((pattern,), room, user)


@given(st.lists(_pattern, max_size=5).map(tuple), _text, _user)
def test_one_of_several_suffices(patterns: tuple[str, ...], room: str, user: str) -> None:
    assert matches(patterns, room, user) == any(reference(pattern, room, user) for pattern in patterns)


def test_a_user_is_no_pattern() -> None:
    star = Identity("*", 0, ("user:{sub}", "{sub}:*"), ())
    assert [star.may_join(room) for room in ("user:*", "*:x")] == [True, True]
    assert not any(star.may_join(room) for room in ("user:alice", "user:", "alice:x", "x"))
    assert not star.may_publish("user:*")


def test_a_star_matches_all_rooms_and_an_empty_list_none() -> None:
    assert matches(EVERYWHERE, "any room", "alice")
    assert not matches((), "any room", "alice")


def test_patterns_without_a_user() -> None:
    durable = any_of(("orders:*", "audit"))
    assert [durable(room) for room in ("orders:7", "audit", "audit:x", "lobby")] == [True, True, False, False]


def test_many_stars_are_fast() -> None:
    """A matcher that backtracks would not end."""
    patterns = checked("join", ["a*" * 63 + "b"] * 64)
    began = time.monotonic()
    assert not matches(patterns, "a" * 128, "alice")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("value", [None, "*", 7, {"*": 1}, [None], [["*"]], [""], ["x" * 129], ["*"] * 65, ["a\nb"]])
def test_invalid_claims(value: object) -> None:
    with pytest.raises(ValueError, match="join must be a list of at most 64 patterns"):
        checked("join", value)


def test_claims_just_within_the_limits() -> None:
    for value in ([], ["x" * 128] * 64, ["*"]):
        assert checked("join", value) == tuple(value)
