# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors

from __future__ import annotations

import os
import pathlib
import re
import shutil

import pytest
from ansible.errors import AnsibleLookupError

from ansible_collections.selfhost.websocket.plugins.lookup.release_version import LookupModule

FILES = {
    "pyproject.toml": "[project]\n",
    "requirements.txt": "uvloop==1 --hash=sha256:00\n",
    "requirements-build.txt": "flit_core==3 --hash=sha256:00\n",
    "src/wsserver/__init__.py": '"""The service."""\n\n__version__ = "1.2.3"\n',
    "src/wsserver/broker/redis.py": "import redis\n",
    "src/wsserver/broker/publish.lua": "return 1\n",
}


def make(root: pathlib.Path, names: list[str] | None = None) -> pathlib.Path:
    for name in names or list(FILES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name])
    return root


def version(source: pathlib.Path) -> str:
    return LookupModule().run([str(source)])[0]


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    return make(tmp_path / "wsserver")


def test_the_version_is_the_packages_own_and_a_digest(source):
    assert re.fullmatch(r"1\.2\.3\+[0-9a-f]{12}", version(source))


def test_the_version_is_the_same_on_every_machine(source):
    """The digest is sha256sum of the sorted files, and again of that output.

    A change of this rule would replace all workers of every fleet.
    """
    assert version(source) == "1.2.3+677b7394233f"


def test_one_version_per_term(source):
    assert LookupModule().run([str(source), str(source)]) == [version(source)] * 2


def test_neither_order_nor_times_nor_place_count(source, tmp_path):
    other = make(tmp_path / "elsewhere" / "tree", list(reversed(FILES)))
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    assert version(other) == version(source)


def test_a_link_to_the_source_is_the_source(source, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(source)
    assert version(link) == version(source)


@pytest.mark.parametrize("name", FILES)
def test_every_file_counts(source, name):
    before = version(source)
    with (source / name).open("a") as file:
        file.write("# changed\n")
    assert version(source) != before


@pytest.mark.parametrize("name", ["src/wsserver/new.py", "src/other/__init__.py", "src/wsserver/broker/data.json"])
def test_a_new_file_counts(source, name):
    before = version(source)
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_text("")
    assert version(source) != before


def test_a_new_name_counts(source):
    before = version(source)
    (source / "src/wsserver/broker/redis.py").rename(source / "src/wsserver/broker/valkey.py")
    assert version(source) != before


def test_text_that_moves_from_one_file_to_the_next_counts(source):
    first, second = source / "src/wsserver/a.py", source / "src/wsserver/b.py"
    first.write_text("xy")
    second.write_text("z")
    before = version(source)
    first.write_text("x")
    second.write_text("yz")
    assert version(source) != before


@pytest.mark.parametrize(
    "name",
    [
        "src/wsserver/__pycache__/cli.cpython-313.pyc",
        "src/wsserver/cli.pyc",
        "src/.mypy_cache/3.11/cache.json",
        "src/wsserver/.cli.py.swp",
        "src/wsserver.egg-info/PKG-INFO",
        "tests/test_cli.py",
        "README.md",
        "dist/wsserver-1.2.3.whl",
    ],
)
def test_other_files_do_not_count(source, name):
    before = version(source)
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_text("anything")
    assert version(source) == before


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "requirements.txt", "requirements-build.txt", "src/wsserver/__init__.py"]
)
def test_a_missing_file_is_named(source, name):
    (source / name).unlink()
    with pytest.raises(AnsibleLookupError, match=f"is not the source of the service: cannot read .*{re.escape(name)}"):
        version(source)


def test_a_missing_directory_is_named(source):
    shutil.rmtree(source)
    with pytest.raises(AnsibleLookupError, match=re.escape(str(source))):
        version(source)


@pytest.mark.parametrize(
    "line", ["", "__version__ = VERSION\n", '__version__ = "1.0+local"\n', '    __version__ = "1.0"\n']
)
def test_a_source_without_a_plain_version_is_refused(source, line):
    (source / "src/wsserver/__init__.py").write_text(line)
    with pytest.raises(AnsibleLookupError, match=r"no line __version__"):
        version(source)


def test_single_quotes_and_an_annotation_are_fine(source):
    (source / "src/wsserver/__init__.py").write_text("__version__: str = '2.0.0rc1'\n")
    assert version(source).startswith("2.0.0rc1+")
