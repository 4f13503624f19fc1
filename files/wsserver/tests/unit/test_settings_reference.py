# SPDX-License-Identifier: MIT
"""docs/settings.md says what the code says."""

from __future__ import annotations

import re
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


def test_the_file_is_current() -> None:
    script = [sys.executable, ROOT / "tools/settings_reference.py", "--check"]
    check = subprocess.run(script, capture_output=True, text=True, check=False, timeout=50)
    assert check.returncode == 0, check.stderr


def test_every_setting_has_one_row() -> None:
    assert sorted(name for name, *_ in ROWS) == sorted(f"`{variable(field)}`" for field in Settings.model_fields)


def test_what_hides_its_value_is_called_a_secret() -> None:
    values = Settings(
        jwt_secret="x" * 32, api_key="x" * 32, redis_password="x", postgres_dsn="postgresql://x"
    ).model_dump()
    hidden = {variable(field) for field, value in values.items() if isinstance(value, SecretStr)}
    assert hidden == {name for name, meaning in MEANINGS.items() if meaning.startswith("**secret**")}


@pytest.mark.parametrize("field", Settings.model_fields)
def test_the_bounds_that_are_told_are_those_that_are_checked(field: str) -> None:
    metadata = Settings.model_fields[field].metadata
    lower = [bound.ge for bound in metadata if isinstance(bound, Ge)]
    upper = [bound.le for bound in metadata if isinstance(bound, Le)]
    told = re.findall(r"(\d+) to (\d+)(?:, or (0) for ever)?", MEANINGS[variable(field)])
    if not told:
        assert not lower
        assert not upper
        return
    [(first, last, for_ever)] = told
    assert lower == [int(for_ever or first)]
    assert upper == [int(last)]


def test_the_roles_preflight_allows_what_the_service_allows() -> None:
    ranges = yaml.safe_load((ROOT / "roles/ws_server/vars/main.yml").read_text())["_ws_server_numbers"]
    assert len(ranges) > 10
    assert ranges.pop("drain_window_s") == [0, 20], "less than the unit's TimeoutStopSec"
    for name, (least, most) in ranges.items():
        bounds = Settings.model_fields[name].metadata
        assert [least] == [bound.ge for bound in bounds if isinstance(bound, Ge)], name
        assert [most] == [bound.le for bound in bounds if isinstance(bound, Le)], name


def test_the_variables_of_the_role_exist() -> None:
    specs = yaml.safe_load((ROOT / "roles/ws_server/meta/argument_specs.yml").read_text())["argument_specs"]
    named = {name for *_, set_by in ROWS for name in re.findall(r"ws_server_\w+", set_by)}
    assert len(named) > 10
    assert named <= set(specs["main"]["options"])
