# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Writes the dashboards to the directory from which the role grafana installs them."""

from __future__ import annotations

import json
from pathlib import Path

from . import DASHBOARDS
from .panels import Dashboard

FILES = Path(__file__).resolve().parents[2] / "roles/grafana/files/dashboards"


def text(dashboard: Dashboard) -> str:
    return json.dumps(dashboard.to_json(), indent=2) + "\n"


def main() -> None:
    FILES.mkdir(parents=True, exist_ok=True)
    for old in FILES.glob("*.json"):
        old.unlink()
    for dashboard in DASHBOARDS:
        (FILES / f"{dashboard.uid}.json").write_text(text(dashboard))


if __name__ == "__main__":
    main()
