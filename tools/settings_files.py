# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Generates every file that repeats the settings of files/wsserver/src/wsserver/settings.py.

settings_files.py          write the files
settings_files.py --check  only name the files that would change
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "files/wsserver/src"))

import settings_reference  # noqa: E402
import settings_role  # noqa: E402
from wsserver import settings  # noqa: E402

SPECS = "roles/ws_server/meta/argument_specs.yml"


def files() -> dict[str, str]:
    """Returns the text of each file, by its path."""
    schema = settings.schema()
    return {
        "docs/settings.schema.json": json.dumps(schema, indent=2) + "\n",
        "docs/settings.md": settings_reference.page(schema["properties"]),
        "roles/ws_server/vars/main/settings.yml": settings_role.variables(schema["properties"]),
        SPECS: settings_role.with_options((ROOT / SPECS).read_text(), schema["properties"]),
    }


def main() -> None:
    made = files()
    if sys.argv[1:] != ["--check"]:
        for name, text in made.items():
            (ROOT / name).write_text(text)
        return
    stale = [name for name, text in made.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    if stale:
        sys.exit(f"{', '.join(stale)}: out of date. Run: .venv/bin/python tools/settings_files.py")


if __name__ == "__main__":
    main()
