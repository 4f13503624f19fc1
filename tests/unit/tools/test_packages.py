# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""`make packages`: an application can install the built packages."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from pathlib import Path

import packages
from program import finished


def test_the_npm_package_is_imported_by_its_name(tmp_path: Path) -> None:
    archive = packages.build_npm(tmp_path)
    modules = tmp_path / "node_modules"
    with tarfile.open(archive) as opened:
        opened.extractall(modules)
    (modules / "package").rename(modules / "wsserver-client")
    about = json.loads((modules / "wsserver-client/package.json").read_text())
    assert about["version"] == packages.version()
    for name in [*about["files"], about["types"], *about["exports"]["."].values()]:
        assert (modules / "wsserver-client" / name).is_file()
    (tmp_path / "use.mjs").write_text('import { Client } from "wsserver-client";\nconsole.log(typeof Client);\n')
    done = finished(["node", "use.mjs"], cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("function\n", "")


def test_the_python_package_has_the_client_and_its_files(tmp_path: Path) -> None:
    source, wheel = sorted(packages.build_python(tmp_path), key=lambda path: path.suffix)
    assert (source.suffix, wheel.suffix) == (".gz", ".whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        opened.extractall(tmp_path / "installed")
    assert {f"wsserver/web/{name}" for name in ("wsclient.js", "wsclient.d.ts", "dev.html")} <= names
    program = "import wsserver.client; print(wsserver.client.Client.__module__, wsserver.__version__)"
    done = finished([sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path / "installed")})
    assert (done.stdout, done.stderr) == (f"wsserver.client.client {packages.version()}\n", "")
