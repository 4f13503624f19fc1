# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._journal import last_lines, readable

LISTENING = (
    '{"address":"127.0.0.1","port":8080,"event":"listening","instance":"vps1-80","version":"0.1.0","level":"info",'
    '"timestamp":"2026-11-24T14:16:46.168646Z"}'
)
FAILED = (
    '{"event":"control_failed","instance":"80","level":"error","timestamp":"2026-11-24T14:16:47.1Z","exception":'
    '[{"exc_type":"ZeroDivisionError","exc_value":"division by zero","frames":[{"filename":"x.py","lineno":1}]}]}'
)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (LISTENING, "14:16:46 info listening address=127.0.0.1 port=8080 version=0.1.0"),
        (FAILED, "14:16:47 error control_failed exception=ZeroDivisionError: division by zero"),
        ('{"event":"ready"}', "ready"),
        ('{"event":"drain","by":"olga","joined":[]}', "drain by=olga joined=[]"),
        ('{"event":"odd","exception":[]}', "odd exception=[]"),
        (
            "ws-server@81.service: Main process exited, code=exited, status=2/INVALIDARGUMENT",
            "ws-server@81.service: Main process exited, code=exited, status=2/INVALIDARGUMENT",
        ),
        ('{"no": "event"}', '{"no": "event"}'),
        ("[1]", "[1]"),
        ("12", "12"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_lines_are_made_readable(line, text):
    assert readable(line) == text


def test_the_last_lines_of_one_unit_are_asked_for():
    asked = []

    def run(argv):
        asked.append(argv)
        client = '{"event":"disconnect","level":"info","connection":"c0ffee","user":"alice"}'
        return 0, "\n".join(["Started ws-server@80.service.", LISTENING, *[client] * 30, "x" * 1000, ""]), ""

    lines = last_lines(run, "ws-server@80.service")
    assert asked == [["journalctl", "-u", "ws-server@80.service", "-n", "500", "-o", "cat", "--no-pager", "-q"]]
    assert lines[:2] == ["Started ws-server@80.service.", readable(LISTENING)]
    assert lines[2:] == ["x" * 400], "lines about clients say nothing about the worker"


def test_a_journal_that_cannot_be_read_says_so_itself():
    assert last_lines(lambda argv: (1, "", "No permission\n"), "x") == ["(no log: No permission)"]
    assert last_lines(lambda argv: (3, "", ""), "x") == ["(no log: journalctl ended with exit status 3)"]
