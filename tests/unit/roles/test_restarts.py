# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Every service comes back, however it ended and however often it fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from program import ROOT

UNITS = sorted([*ROOT.glob("roles/*/templates/*.service.j2"), *ROOT.glob("roles/*/templates/*.service.conf.j2")])
# Units of Debian that have Restart=always themselves. On a host, test_host.py checks the result.
OF_DEBIAN = {"redis-server.service.conf.j2"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_service_restarts_after_any_end(unit: Path) -> None:
    """With on-failure, a service that gets SIGTERM from anything but systemctl stays down."""
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
    if settings.get("Type") == "oneshot":
        return
    assert settings.get("Restart", "always" if unit.name in OF_DEBIAN else None) == "always"
    assert float(settings["RestartSec"]) >= 1, "a service that cannot start must not take the CPU"
    assert settings["StartLimitIntervalSec"] == "0", "systemd must not give up"


def test_the_units_are_found() -> None:
    names = {unit.name for unit in UNITS}
    assert {"ws-server@.service.j2", "nginx.service.conf.j2", "postgresql.service.conf.j2", *OF_DEBIAN} <= names
    assert len(names) > 10
