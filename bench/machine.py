# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The machine and the programs of a run."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

from bench.peers import command_output
from bench.process import Cores


def machine(cores: Cores) -> dict[str, str]:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    redis = re.search(r"v=(\S+)", command_output("redis-server", "--version"))
    postgres = re.search(r"\d[\d.]*", command_output("psql", "--version"))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "placement": str(cores),
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}",
        "python": platform.python_version(),
        "redis": redis[1] if redis else "?",
        "postgres": postgres[0] if postgres else "?",
    }
