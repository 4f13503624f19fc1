# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The upgrade from the previous release and the rollback, both from tarballs; see ci/hosts.sh."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from clients import finish, witness
from fleet import Fleet, changed
from rollouts import assert_settled, judge, links, observed, release_of

pytestmark = pytest.mark.hosts

# 250 clients connect through each edge.
CROWD = {"connections": 248, "rooms": 25, "rate": 12.0}
# Old and new workers serve the same rooms meanwhile, for two minutes or more.
MIXED = "--extra-vars=ws_server_canary_s=20"


def deploy(fleet: Fleet, project: str, *arguments: str) -> str:
    """Run site.yml of the collection installed in a project, and return its output."""
    directory = Path(os.environ["WS_FLEET_PROJECTS"], project)
    done = subprocess.run(
        ["ansible-playbook", "-i", fleet.inventory, "selfhost.websocket.site", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
        env=os.environ | {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_COLLECTIONS_PATH": str(directory / "collections")},
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def releases(fleet: Fleet) -> set[str]:
    return {release_of(generation) for host in fleet.worker_hosts for generation in links(fleet, host=host).values()}


async def test_the_upgrade(fleet: Fleet) -> None:
    before = releases(fleet)
    async with contextlib.AsyncExitStack() as stack:
        witnesses = [await stack.enter_async_context(witness(fleet, edge, **CROWD)) for edge in fleet.edges]
        with contextlib.ExitStack() as looking:
            looks = [looking.enter_context(observed(fleet, host)) for host in fleet.worker_hosts]
            await asyncio.to_thread(deploy, fleet, "current", MIXED)
        reports = [await finish(one) for one in witnesses]
    judge(reports, looks)
    assert_settled(fleet)
    assert len(releases(fleet)) == 1
    assert not releases(fleet) & before
    assert changed(await asyncio.to_thread(deploy, fleet, "current")) == []


async def test_the_rollback_to_the_previous_release(fleet: Fleet) -> None:
    """The previous release has no canaries and gates. Still, nothing is lost."""
    before = releases(fleet)
    async with contextlib.AsyncExitStack() as stack:
        witnesses = [await stack.enter_async_context(witness(fleet, edge, **CROWD)) for edge in fleet.edges]
        await asyncio.to_thread(deploy, fleet, "previous")
        for one in witnesses:
            await finish(one)
    assert len(releases(fleet)) == 1
    assert not releases(fleet) & before
