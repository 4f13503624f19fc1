# SPDX-License-Identifier: MIT
"""The cases are systemd's own rules (systemd.exec(5), EnvironmentFile=), not those of a shell or of
dotenv.
"""

from __future__ import annotations

import pytest

from wsserver.runtime.env_file import parse


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A=", ""),
        ("  A = b c  ", "b c"),
        ("A=b # no comment", "b # no comment"),
        ("A=$HOME ${X} `y`", "$HOME ${X} `y`"),
        ("A='b c'", "b c"),
        ("A='b\\n$c\"'", 'b\\n$c"'),
        ("A='b'   ", "b"),
        ("A='b'\"c\" d", "bcd"),
        ('A="b \\"c\\" \\\\ \\$ \\n"', 'b "c" \\ $ \\n'),
        ('A="two\nlines"', "two\nlines"),
        ("A='two\nlines'", "two\nlines"),
        ("A=b\\\nc", "bc"),
        ('A="b\\\nc"', "bc"),
        ("A=b\\'c\\\\", "b'c\\"),
        ("A=b'c'", "b'c'"),
        ("A=x=y", "x=y"),
        ("A=first\nA=last", "last"),
    ],
)
def test_values(line: str, value: str) -> None:
    for around in ("{}", "Z=before\n{}\n"):
        assert parse(around.format(line))["A"] == value


def test_an_unclosed_quote_runs_to_the_end() -> None:
    assert parse("A='open\nB=c") == {"A": "open\nB=c"}


def test_ignored_lines() -> None:
    text = "# A=1\n; A=2\n\n  # A=3 'open\nno assignment\nexport A=4\n1A=5\n=6\nB=7"
    assert parse(text) == {"B": "7"}
    assert parse("") == {}
