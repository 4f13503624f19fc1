# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Archives that Python runs, equal for equal sources."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from ansible_collections.selfhost.websocket.plugins.action.zipapp import archive


@pytest.fixture
def sources(tmp_path):
    package, shared = tmp_path / "greeter", tmp_path / "_words.py"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("from _words import WORD\n\ndef main():\n    print(WORD)\n")
    shared.write_text("WORD = 'hello'\n")
    return [package, shared]


def test_python_runs_it(sources, tmp_path):
    program = tmp_path / "elsewhere/program.pyz"
    program.parent.mkdir()
    program.write_bytes(archive(sources, "greeter.__main__:main"))
    command = [sys.executable, "-I", program]
    assert subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout == "hello\n"


def test_equal_sources_make_equal_archives(sources, tmp_path):
    before = archive(sources, "greeter.__main__:main")
    for path in tmp_path.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 1))
    (tmp_path / "greeter/__pycache__").mkdir()
    (tmp_path / "greeter/__pycache__/left.pyc").write_bytes(b"left")
    assert archive(reversed(sources), "greeter.__main__:main") == before
    (tmp_path / "_words.py").write_text("WORD = 'other'\n")
    assert archive(sources, "greeter.__main__:main") != before


def test_a_package_keeps_its_directory(sources, tmp_path):
    (tmp_path / "program.pyz").write_bytes(archive(sources, "greeter.__main__:main"))
    names = zipfile.ZipFile(tmp_path / "program.pyz").namelist()
    assert names == ["__main__.py", "_words.py", "greeter/__init__.py", "greeter/__main__.py"]


@pytest.mark.parametrize("main", ["greeter.__main__", "greeter.other:main", "greeter.__main__:main()"])
def test_a_program_without_its_main_function_is_refused(sources, main):
    with pytest.raises(ValueError, match=r"like package\.module:main"):
        archive(sources, main)


def test_the_action_copies_the_archive_and_a_second_run_changes_nothing(module, sources, tmp_path):
    options = {
        "src": [str(source) for source in sources],
        "main": "greeter.__main__:main",
        "dest": str(tmp_path / "program.pyz"),
        "mode": "0640",
    }
    result = module("zipapp", **options)
    assert (result["changed"], result["dest"]) == (True, options["dest"]), result
    assert (tmp_path / "program.pyz").stat().st_mode & 0o777 == 0o640
    assert subprocess.run([sys.executable, options["dest"]], check=True, capture_output=True).stdout == b"hello\n"
    assert module("zipapp", **options)["changed"] is False
