# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""build-release.sh, without network.

The service has ten lines and one dependency. The test provides the build system.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import ROOT, finished

SCRIPT = ROOT / "roles/ws_server/files/build-release.sh"
PYTHON = Path("/usr/bin/python3").resolve().name
PACKAGES = f"lib/{PYTHON}/site-packages"
# A minimal build backend: a wheel of wsserver with the script ws-server.
BACKEND = """
    import pathlib, re, zipfile

    def build_wheel(directory, config_settings=None, metadata_directory=None):
        version = re.search('__version__ = "(.*)"', pathlib.Path("src/wsserver/__init__.py").read_text())[1]
        info = f"wsserver-{version}.dist-info"
        name = f"wsserver-{version}-py3-none-any.whl"
        with zipfile.ZipFile(pathlib.Path(directory, name), "w") as wheel:
            for path in pathlib.Path("src").rglob("*.py"):
                wheel.write(path, path.relative_to("src"))
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: wsserver\\nVersion: {version}\\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
            wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\\nws-server = wsserver:main\\n")
            wheel.writestr(f"{info}/RECORD", "")
        return name
"""
SERVICE = """
    __version__ = "0.1.0"

    def main():
        import dependency
        print(__version__, dependency.NAME)
"""


class Host:
    """A directory instead of /opt/ws-server, and an index of two wheels."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "ws-server"
        self.index = directory / "index"
        self.source = directory / "source"
        for path in (self.home / "releases", self.home / "environments", self.index):
            path.mkdir(parents=True)
        self.offer("dependency", "1.0", 'NAME = "one"')
        self.offer("dependency", "2.0", 'NAME = "two"')
        self.offer("backend", "1.0", textwrap.dedent(BACKEND))
        self.locks = {wheel.stem: self._lock(wheel) for wheel in self.index.iterdir()}

    def offer(self, name: str, version: str, text: str) -> None:
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(self.index / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", text)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")

    def _lock(self, wheel: Path) -> str:
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        return f"--no-index\n--find-links {self.index}\n{name}=={version} --hash=sha256:{digest}\n"

    @contextlib.contextmanager
    def without_index(self) -> Iterator[None]:
        aside = self.index.rename(self.index.with_name("aside"))
        yield
        aside.rename(self.index)

    def build(self, version: str, environment: str, dependency: str = "1.0") -> subprocess.CompletedProcess[str]:
        """Build a release like the role, from a copy of the source."""
        shutil.rmtree(self.source, ignore_errors=True)
        (self.source / "src/wsserver").mkdir(parents=True)
        self.source.joinpath("src/wsserver/__init__.py").write_text(textwrap.dedent(SERVICE))
        self.source.joinpath("pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "backend"\n')
        self.source.joinpath("requirements-build.txt").write_text(self.locks["backend-1.0-py3-none-any"])
        self.source.joinpath("requirements.txt").write_text(self.locks[f"dependency-{dependency}-py3-none-any"])
        return finished(
            [SCRIPT, self.source, self.release(version), version, environment],
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
        )

    def release(self, version: str) -> Path:
        return self.home / "releases" / version

    def environment(self, name: str) -> Path:
        return self.home / "environments" / name

    def says(self, version: str) -> str:
        done = finished([self.release(version) / "bin/ws-server"])
        return (done.stdout or done.stderr).strip()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with one release for all tests. Each test adds releases with other names."""
    host = Host(tmp_path_factory.mktemp("host"))
    done = host.build("0.1.0+a", "one")
    assert done.returncode == 0, done.stderr
    return host


def test_a_release_is_small_and_finds_its_dependencies_through_its_link(host: Host) -> None:
    release = host.release("0.1.0+a")
    assert host.says("0.1.0+a") == "0.1.0+a one"
    assert release.joinpath("environment").readlink() == Path("../../environments/one")
    assert {path.name for path in (release / PACKAGES).iterdir()} == {
        "environment.pth",
        "wsserver",
        "wsserver-0.1.0+a.dist-info",
    }
    # The process's command line names the release, which the tests of rollouts look for.
    assert release.joinpath("bin/ws-server").read_text().startswith(f"#!{release}/bin/python")
    assert release.joinpath(".complete").exists()
    assert host.environment("one").joinpath(".complete").exists()


def test_a_release_has_the_versioned_interpreter(host: Host) -> None:
    """python3 may become another version.

    The release runs as long as its interpreter is installed.
    """
    assert host.release("0.1.0+a").joinpath("bin", PYTHON).readlink() == Path("/usr/bin", PYTHON)


def test_a_second_release_with_the_same_requirements_needs_no_index(host: Host) -> None:
    with host.without_index():
        done = host.build("0.1.0+b", "one")
    assert done.returncode == 0, done.stderr
    assert host.says("0.1.0+b") == "0.1.0+b one"
    assert host.says("0.1.0+a") == "0.1.0+a one"


def test_an_interrupted_build_of_an_environment_starts_over_with_its_own_requirements(host: Host) -> None:
    stray = host.environment("two") / PACKAGES / "stray.py"
    stray.parent.mkdir(parents=True)
    stray.touch()
    done = host.build("0.1.0+c", "two", dependency="2.0")
    assert done.returncode == 0, done.stderr
    assert not stray.exists()
    assert host.environment("two").joinpath(".complete").exists()
    assert host.says("0.1.0+c") == "0.1.0+c two"
    assert host.says("0.1.0+a") == "0.1.0+a one"


def test_an_interrupted_build_of_a_release_starts_over(host: Host) -> None:
    stray = host.release("0.1.0+d") / PACKAGES / "stray.py"
    stray.parent.mkdir(parents=True)
    stray.touch()
    done = host.build("0.1.0+d", "one")
    assert done.returncode == 0, done.stderr
    assert not stray.exists()
    assert host.says("0.1.0+d") == "0.1.0+d one"


def test_a_release_of_another_interpreter_is_rebuilt_beside_the_files_that_its_workers_use(host: Host) -> None:
    release = host.release("0.1.0+e")
    used = release / "lib/python3.1/site-packages/wsserver/worker.py"
    used.parent.mkdir(parents=True)
    used.touch()
    release.joinpath("bin").mkdir()
    release.joinpath("bin/python").symlink_to("/usr/bin/python3.1")
    release.joinpath("environment").symlink_to("../../environments/gone")
    release.joinpath(".complete").touch()
    done = host.build("0.1.0+e", "one")
    assert done.returncode == 0, done.stderr
    assert host.says("0.1.0+e") == "0.1.0+e one"
    assert release.joinpath("environment").readlink() == Path("../../environments/one")
    assert used.exists()
