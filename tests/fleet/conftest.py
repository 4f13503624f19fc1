# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from fleet import Fleet, eventually
from observer import HURRY, REST, Observer


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The fleet under test, from the status file in WS_FLEET_STATUS (see lab/inventory)."""
    return Fleet(Path(os.environ["WS_FLEET_STATUS"]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the hosts during a failed test, because the hosts are removed after the run."""
    report = yield
    fleet = item.funcargs.get("fleet")
    if report.failed and call.when == "call" and isinstance(fleet, Fleet):
        journal = f"journalctl --since @{int(call.start)} --output short-precise --no-pager --lines 100"
        for host in fleet.hosts:
            report.sections.append((f"journal of {host}", fleet.ssh(host, journal, check=False)))
    return report


@pytest.fixture(autouse=True)
def _whole(fleet: Fleet) -> None:
    """Each test starts with every worker ready, whatever the previous test did."""
    eventually(fleet.whole, 60, "every worker ready")


@pytest.fixture(scope="session")
def observer(fleet: Fleet) -> Observer:
    if fleet.observability is None:
        pytest.skip("this fleet has no monitoring")
    return Observer(fleet, fleet.observability)


@pytest.fixture(scope="module")
def hurried(observer: Observer) -> Iterator[Observer]:
    """Let alerts be raised and cleared within seconds."""
    observer.ssh(HURRY)
    yield observer
    observer.ssh(REST)
