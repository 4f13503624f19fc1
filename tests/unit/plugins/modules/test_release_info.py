# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""release_info on a host with and without an upgrade of Debian in place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import run

from ansible_collections.selfhost.websocket.plugins.module_utils import _instance, _release
from ansible_collections.selfhost.websocket.plugins.modules import release_info

ABI = "cpython-311-x86_64-linux-gnu"
ENVIRONMENT = f"{ABI}-0123456789ab"


class Host:
    """A host whose `python3` is one of two fake interpreters."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory / "bin"
        self.home = directory / "ws-server"
        self.programs.mkdir()
        self.home.joinpath("releases").mkdir(parents=True)
        self.python3 = self.programs / "python3"
        self.install("python3.11", ABI)

    def install(self, python: str, abi: str) -> None:
        """Install Debian's package of a Python. python3 is the last installed one."""
        program = self.programs / python
        program.write_text(f"#!/bin/sh\necho {abi}\n")
        program.chmod(0o755)
        self.python3.unlink(missing_ok=True)
        self.python3.symlink_to(python)

    def release(self, version: str, environment: str | None, complete: bool = True) -> Path:
        """A release as built by build-release.sh. Early versions had no `environment`."""
        release = self.home / "releases" / version
        python = self.python3.resolve()
        release.joinpath("lib", python.name, "site-packages/wsserver").mkdir(parents=True)
        release.joinpath("bin").mkdir()
        release.joinpath("bin/python").symlink_to(python if environment else self.python3)
        if environment:
            target = self.home / "environments" / environment
            target.mkdir(parents=True, exist_ok=True)
            target.joinpath(".complete").touch()
            release.joinpath("environment").symlink_to(f"../../environments/{environment}")
        if complete:
            release.joinpath(".complete").touch()
        return release


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(_instance, "HOME", host.home)
    monkeypatch.setattr(_release, "PYTHON", str(host.python3))
    return host


def complaints() -> dict[str, str | None]:
    result = run(release_info)
    assert not result["failed"], result
    return {release["version"]: release["complaint"] for release in result["releases"]}


def test_a_bare_host(host: Host) -> None:
    host.home.joinpath("releases").rmdir()
    result = run(release_info)
    assert (result["abi"], result["releases"], result["changed"]) == (ABI, [], False)


def test_releases_of_both_layouts(host: Host) -> None:
    host.release("0.2.0+b", ENVIRONMENT)
    host.release("0.1.0+a", None)
    host.home.joinpath("releases/0.3.0+c.build").mkdir()
    assert run(release_info)["releases"] == [
        {"version": "0.1.0+a", "environment": None, "complaint": None},
        {"version": "0.2.0+b", "environment": ENVIRONMENT, "complaint": None},
    ]


def test_an_interrupted_build(host: Host) -> None:
    host.release("0.1.0+a", ENVIRONMENT, complete=False)
    assert complaints() == {"0.1.0+a": "its build was interrupted"}


def test_a_missing_environment(host: Host) -> None:
    host.release("0.1.0+a", ENVIRONMENT)
    host.home.joinpath("environments", ENVIRONMENT, ".complete").unlink()
    assert complaints() == {"0.1.0+a": f"its environment {ENVIRONMENT} no longer exists"}


def test_an_upgrade_of_debian_before_and_after_the_old_python_is_removed(host: Host) -> None:
    host.release("0.1.0+a", None)
    host.release("0.2.0+b", ENVIRONMENT)
    host.install("python3.13", "cpython-313-x86_64-linux-gnu")
    old = "it was built for Python 3.11, and the host has Python 3.13"
    assert complaints() == {"0.1.0+a": old, "0.2.0+b": None}
    host.programs.joinpath("python3.11").unlink()
    gone = f"its interpreter {host.programs}/python3.11 no longer exists"
    assert complaints() == {"0.1.0+a": old, "0.2.0+b": gone}
    assert run(release_info)["abi"] == "cpython-313-x86_64-linux-gnu"


def test_a_host_without_python3(host: Host) -> None:
    host.python3.unlink()
    result = run(release_info)
    assert result["failed"]
    assert "install the package python3" in result["msg"]


def test_a_python3_that_fails(host: Host) -> None:
    host.programs.joinpath("python3.11").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    result = run(release_info)
    assert result["failed"]
    assert "python3 failed: broken" in result["msg"]
