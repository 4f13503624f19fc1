# SPDX-License-Identifier: MIT
"""A worker whose broker recognises repeats for five seconds, and that may stand still for four:
`python -m support.short_window serve`.
"""

from __future__ import annotations

import sys

from wsserver import cli
from wsserver.runtime import pauses
from wsserver.storage.redis import broker

WINDOW_S = 5

if __name__ == "__main__":
    broker._DEDUPE_TTL_S = WINDOW_S
    pauses.LONGEST_S = 4.0
    sys.exit(cli.main())
