# SPDX-License-Identifier: MIT
"""The files that tools/settings_files.py generates match settings.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from annotated_types import Ge, Le
from pydantic import SecretStr

from wsserver.settings import Settings, variable

ROOT = Path(__file__).parents[4]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/settings.md").read_text().splitlines()
    if line.startswith("| `")
]
MEANINGS = {name.strip("`"): meaning for name, _default, meaning, _set_by in ROWS}


def run(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, root / "tools/settings_files.py", *arguments]
    return subprocess.run(script, capture_output=True, text=True, check=False, timeout=50)


def test_the_files_are_current() -> None:
    check = run("--check")
    assert check.returncode == 0, check.stderr


def test_a_stale_file_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    for part in ("tools", "docs", "roles/ws_server", "files/wsserver/src"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "docs/settings.md").write_text("old")
    (tmp_path / "docs/settings.schema.json").unlink()
    check = run("--check", root=tmp_path)
    assert check.returncode == 1
    assert check.stderr == (
        "docs/settings.schema.json, docs/settings.md: out of date. Run: .venv/bin/python tools/settings_files.py\n"
    )
    assert run(root=tmp_path).returncode == 0
    assert run("--check", root=tmp_path).returncode == 0


def test_every_setting_has_one_row() -> None:
    assert sorted(name for name, *_ in ROWS) == sorted(f"`{variable(field)}`" for field in Settings.model_fields)


def test_hidden_settings_are_called_secrets() -> None:
    values = Settings(
        jwt_secret="x" * 32, api_key="x" * 32, redis_password="x", postgres_dsn="postgresql://x"
    ).model_dump()
    hidden = {variable(field) for field, value in values.items() if isinstance(value, SecretStr)}
    assert hidden == {name for name, meaning in MEANINGS.items() if meaning.startswith("**secret**")}


@pytest.mark.parametrize("field", Settings.model_fields)
def test_the_documented_bounds_are_checked(field: str) -> None:
    metadata = Settings.model_fields[field].metadata
    lower = [bound.ge for bound in metadata if isinstance(bound, Ge)]
    upper = [bound.le for bound in metadata if isinstance(bound, Le)]
    told = [(int(first), int(last)) for first, last in re.findall(r"(\d+) to (\d+)", MEANINGS[variable(field)])]
    assert [*zip(lower, upper, strict=True)] == told


def test_the_roles_preflight_allows_what_the_service_allows() -> None:
    table = yaml.safe_load((ROOT / "roles/ws_server/vars/main/settings.yml").read_text())["_ws_server_settings"]
    ranges = {name: (rule["minimum"], rule["maximum"]) for name, rule in table.items() if "maximum" in rule}
    assert len(ranges) > 10
    for name, (least, most) in ranges.items():
        bounds = Settings.model_fields[name].metadata
        assert [least] == [bound.ge for bound in bounds if isinstance(bound, Ge)], name
        assert [most] == [bound.le for bound in bounds if isinstance(bound, Le)], name


def test_the_schema_has_every_setting_and_no_secret_has_a_default() -> None:
    properties = json.loads((ROOT / "docs/settings.schema.json").read_text())["properties"]
    assert list(properties) == [variable(field) for field in Settings.model_fields]
    assert properties["WS_HEARTBEAT_S"] == {
        "default": 25,
        "description": "seconds between two pings",
        "maximum": 3600,
        "minimum": 1,
        "type": "number",
    }
    secrets = {name for name, setting in properties.items() if setting.get("writeOnly")}
    assert secrets == {name for name, meaning in MEANINGS.items() if meaning.startswith("**secret**")}
    assert not [name for name in secrets if "default" in properties[name]]


def test_the_variables_of_the_role_exist() -> None:
    specs = yaml.safe_load((ROOT / "roles/ws_server/meta/argument_specs.yml").read_text())["argument_specs"]
    named = {name for *_, set_by in ROWS for name in re.findall(r"ws_server_\w+", set_by)}
    assert len(named) > 10
    assert named <= set(specs["main"]["options"])
