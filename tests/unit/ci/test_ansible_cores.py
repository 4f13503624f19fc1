# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""README and meta/runtime.yml promise each ansible-core that is tested, and no other."""

from __future__ import annotations

import re

import yaml
from program import ROOT

[CORES] = re.findall(r'^cores="(.+)"$', (ROOT / "ci/ansible_cores.sh").read_text(), re.MULTILINE)
TESTED = [tuple(map(int, core.split("."))) for core in CORES.split()]


def test_the_metadata_asks_for_what_is_tested() -> None:
    (major, first), (_major, last) = TESTED[0], TESTED[-1]
    assert [(major, minor) for minor in range(first, last + 1)] == TESTED
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    assert runtime["requires_ansible"] == f">={major}.{first}.0,<{major}.{last + 1}.0"


def test_readme_says_how_far_each_is_tested() -> None:
    [in_full] = re.findall(r"^ansible-core==(\d+\.\d+)\.", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE)
    *others, last = [core for core in CORES.split() if core != in_full]
    promise = f"ansible-core {in_full} is tested in full, {', '.join(others)} and {last} as far as the checks"
    assert promise in (ROOT / "README.md").read_text()
