# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge import Edge
from program import ROOT, finished

Module = Callable[..., dict[str, Any]]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    started = Edge(tmp_path)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def module() -> Module:
    """Runs a module as Ansible does, on this machine: module("nginx_upstream", check=…, **options) is its result."""

    def run(name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        settings = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "lab/collections"),
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        done = finished(
            [
                *(Path(sys.executable).with_name("ansible"), "localhost", "--diff", *(["--check"] if check else [])),
                *("--extra-vars", json.dumps({"ansible_python_interpreter": sys.executable})),
                *("--module-name", f"selfhost.websocket.{name}", "--args", json.dumps(options)),
            ],
            env=os.environ | settings,
        )
        report = json.loads(done.stdout[done.stdout.index("{\n") :])
        result: dict[str, Any] = report["plays"][0]["tasks"][0]["hosts"]["localhost"]
        return result

    return run
