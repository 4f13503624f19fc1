# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
from __future__ import annotations

import os
from pathlib import Path

import pytest
from fleet import Fleet, eventually


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The fleet under test: WS_FLEET_STATUS names its status file (see lab/inventory)."""
    return Fleet(Path(os.environ["WS_FLEET_STATUS"]))


@pytest.fixture(autouse=True)
def _whole(fleet: Fleet) -> None:
    """Each test starts with every worker ready, whatever the one before it did."""
    eventually(fleet.whole, 60, "every worker ready")
