# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Rollouts on one host of four workers: their effect on clients, faults, and interrupted runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from clients import finish, progress, witness
from fleet import Fleet, changed, eventually
from rollouts import (
    HOME,
    assert_settled,
    install,
    judge,
    kill_playbook,
    links,
    observed,
    release_of,
    serving,
    variant,
)

ALL = ["80", "81", "82", "83"]
CROWD = {"connections": 498, "rooms": 50}
SHORT_WATCH = "--extra-vars=ws_server_canary_s=3"


async def roll(fleet: Fleet, *arguments: str, playbook: str = "rolling_update.yml", fails: bool = False) -> str:
    return await asyncio.to_thread(fleet.play, SHORT_WATCH, *arguments, playbook=playbook, fails=fails)


@pytest.mark.long
async def test_an_update_and_its_rollback(fleet: Fleet, tmp_path: Path) -> None:
    """An update to another release with other settings, and the rollback of both."""
    source = variant(tmp_path, {"__init__.py": "\n# Another release.\n"})
    newer = [f"--extra-vars=ws_server_source={source}", "--extra-vars=ws_server_heartbeat_s=24"]
    before = links(fleet)
    fleet.ssh(fleet.worker_host, f"touch {HOME}/restart-asked")  # an interrupted restart, which the update ends
    for playbook, arguments in (("rolling_update.yml", newer), ("rollback.yml", [])):
        async with witness(fleet, **CROWD) as one:
            with observed(fleet) as workers:
                said = await roll(fleet, *arguments, playbook=playbook)
            report = await finish(one)
        print(*re.findall(r"msg: '?(Worker .*?)'?\n\n", said, re.DOTALL), sep="\n")
        judge([report], [workers])
        assert_settled(fleet)
        assert_settled(fleet, "restart-asked")
        now = links(fleet)
        if playbook == "rollback.yml":
            assert now == before
        else:
            assert len(set(now.values())) == 1
            assert not {*map(release_of, now.values())} & {*map(release_of, before.values())}
        assert changed(await roll(fleet, *arguments, playbook=playbook)) == []
        assert links(fleet) == now


# The fault of a release, and the message to the operator.
BAD = {
    "it does not start": (
        {"cli.py": "\ndef _serve(_arguments):\n    import wsserver.not_packed\n"},
        ["Wait until the worker is ready: Worker 80 crashes repeatedly", "No module named 'wsserver.not_packed'"],
    ),
    "it never becomes ready": (
        {"worker/worker.py": "\nWorker.state = property(lambda self: 'starting')\n"},
        ["Wait until the worker is ready: Worker 80 was not ready within 10 s: its unit is activating"],
    ),
    "it is ready and acknowledges nothing": (
        {
            "sessions/session.py": "\nSession._publish = lambda self, command: self.refuse("
            "Error('outcome_unknown', 'not decided', command.id))\n"
        },
        ["Connect to the worker as a client: publish: refused, outcome_unknown: not decided"],
    ),
}


@pytest.mark.rolls
@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_release_ends_with_the_first_worker(fleet: Fleet, tmp_path: Path, bad: str) -> None:
    changes, told = BAD[bad]
    source = install(fleet, tmp_path, changes)
    timeout = 10 if "never" in bad else 60
    arguments = [f"--extra-vars=ws_server_source={source}", f"--extra-vars=ws_server_ready_timeout={timeout}"]
    await assert_stops_at_the_first_worker(fleet, roll(fleet, *arguments, fails=True), told)


@pytest.mark.rolls
async def test_a_worker_that_crashes_while_it_is_watched_ends_the_rollout(fleet: Fleet) -> None:
    async def crash() -> str:
        with fleet.playing("rolling_update.yml", "--extra-vars=ws_server_heartbeat_s=22") as run:
            said, _none = await asyncio.to_thread(_crash, run)
        assert run.returncode != 0
        return said

    def _crash(run: Any) -> tuple[str, None]:
        said = []
        for line in run.stdout:
            said.append(line)
            if "Watch the first worker of the rollout]" in line:
                fleet.ssh(fleet.worker_host, f"kill -SEGV {fleet.pid('80')}")
        return "".join(said), None

    await assert_stops_at_the_first_worker(
        fleet, crash(), ["Watch the first worker of the rollout: Worker 80", "signal 11"]
    )


async def assert_stops_at_the_first_worker(fleet: Fleet, rollout: Any, told: list[str]) -> None:
    """The rollout fails, the first worker rolls back, and no other worker is touched."""
    before = links(fleet)
    async with witness(fleet) as one:
        with observed(fleet) as workers:
            said = await rollout
            await asyncio.to_thread(eventually, lambda: serving(fleet) == ALL, 60, "all workers serve again")
        await finish(one)
    words = " ".join(said.split())
    for sentence in ("The rollout has stopped at worker 80 of", "and serves. No other worker was touched", *told):
        assert " ".join(sentence.split()) in words, said[-6000:]
    assert links(fleet) == before
    assert {instance for instance, pids in workers.pids().items() if len(pids) > 1} == {"80"}
    assert workers.strangers() == []
    assert workers.fewest_ready == len(ALL) - 1
    assert "lock" not in fleet.ssh(fleet.worker_host, "ls /var/lib/ws-fleet")


@pytest.mark.rolls
async def test_a_failed_preparation_touches_no_worker(fleet: Fleet, tmp_path: Path) -> None:
    """A migration fails, and only the release itself refuses a setting."""
    source = install(fleet, tmp_path / "one", {"migrations/9999_bad.sql": "ALTER TABLE nothing ADD COLUMN more int;\n"})
    refusal = "raise BadSettings(['WS_HEARTBEAT_S is out of fashion'])"
    choosy = install(fleet, tmp_path / "two", {"cli.py": f"\ndef _check_settings(_arguments):\n    {refusal}\n"})
    pids = {instance: fleet.pid(instance) for instance in ALL}
    before = links(fleet)
    async with witness(fleet) as one:
        for argument, told in (
            (f"ws_server_source={source}", 'the schema was not changed: relation "nothing" does not exist'),
            (f"ws_server_source={choosy}", "The settings cannot be used: ws-server: WS_HEARTBEAT_S is out of fashion"),
        ):
            said = await roll(fleet, f"--extra-vars={argument}", fails=True)
            assert told in " ".join(said.replace("\\", "").split()), said[-6000:]
        report = await finish(one)
        assert not report.disconnects
    assert links(fleet) == before
    assert {instance: fleet.pid(instance) for instance in ALL} == pids


@pytest.mark.rolls
async def test_the_next_run_rolls_back_a_killed_rollout_to_a_bad_release(fleet: Fleet, tmp_path: Path) -> None:
    """The run is killed after it moved the link, or after it also started the bad release."""
    source = install(fleet, tmp_path, {"worker/worker.py": "\nWorker.state = property(lambda self: 'starting')\n"})
    arguments = [f"--extra-vars=ws_server_source={source}", "--extra-vars=ws_server_ready_timeout=10"]
    before = links(fleet)
    async with witness(fleet) as one:
        for task in ("Install the unit of its generation", "Wait until the worker is ready"):
            await asyncio.to_thread(kill_playbook, fleet, "rolling_update.yml", task, arguments)
            await progress(one, 10)
            said = " ".join((await roll(fleet, *arguments, fails=True)).split())
            assert "The rollout has stopped at worker 80 of" in said, said[-6000:]
            assert "and serves. No other worker was touched" in said, said[-6000:]
            assert links(fleet) == before
        await finish(one)
    assert await asyncio.to_thread(serving, fleet) == ALL


@pytest.mark.rolls
async def test_kill_9_in_the_middle_of_each_step(fleet: Fleet) -> None:
    """Each run continues where the previous one was killed. Each worker is replaced once in all."""
    arguments = [SHORT_WATCH, "--extra-vars=ws_server_heartbeat_s=23"]

    def draining() -> bool:
        return "rollout" in fleet.ssh(fleet.worker_host, "ws-server ctl status --json")

    async with witness(fleet) as one:
        with observed(fleet) as workers:
            for task, when in (
                ("Migrate the schema", lambda: True),
                ("Drain the worker", draining),
                ("Install the unit of its generation", lambda: True),
                ("Wait until the worker is ready", lambda: True),
                ("Watch the first worker of the rollout", lambda: True),
                ("Close the rollout", lambda: True),
            ):
                await asyncio.to_thread(kill_playbook, fleet, "rolling_update.yml", task, arguments, when)
                await progress(one, 10)
            said = await roll(fleet, *arguments)
        report = await finish(one)
    assert "is taken over: that run has ended" in " ".join(said.split()), said[-6000:]
    judge([report], [workers])
    assert_settled(fleet)


@pytest.mark.rolls
async def test_a_restart_waits_for_the_operator_and_continues_after_an_interruption(fleet: Fleet) -> None:
    before = links(fleet)
    ctl = "ws-server ctl {} --instance 82 --by alice"
    async with witness(fleet) as one:
        with observed(fleet) as workers:
            await asyncio.to_thread(fleet.ssh, fleet.worker_host, ctl.format("drain"))
            said = await roll(fleet, playbook="rolling_restart.yml", fails=True)
            assert "was not touched: alice has drained worker 82" in " ".join(said.split()), said[-6000:]
            assert await asyncio.to_thread(serving, fleet) == ["80", "81", "83"]
            await asyncio.to_thread(fleet.ssh, fleet.worker_host, ctl.format("undrain"))
            await asyncio.to_thread(
                kill_playbook, fleet, "rolling_restart.yml", "Wait until the worker is ready", [SHORT_WATCH]
            )
            said = await roll(fleet, playbook="rolling_restart.yml")
        report = await finish(one)
    judge([report], [workers])
    assert_settled(fleet, "restart-asked")
    assert links(fleet) == before


@pytest.mark.rolls
def test_check_mode_predicts_and_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    source = variant(tmp_path, {"__init__.py": "\n# One more release.\n"})
    state = f"find {HOME} /etc/ws-server /etc/systemd/system /var/lib/ws-fleet -printf '%p %T@ %l\\n' | sort"
    state += "; systemctl show --property=MainPID 'ws-server@*'"
    before = fleet.ssh(fleet.worker_host, state)
    for playbook, arguments, says in (
        ("rolling_update.yml", [f"--extra-vars=ws_server_source={source}"], ["Would build 0."]),
        ("rolling_restart.yml", [], []),
        ("rollback.yml", [], []),
    ):
        said = fleet.play("--check", *arguments, playbook=playbook)
        for sentence in [*says, *(f"Worker {instance} of " for instance in ALL)]:
            assert sentence in said, said[-6000:]
        assert fleet.ssh(fleet.worker_host, state) == before, playbook


@pytest.mark.rolls
@pytest.mark.timeout(3600)
async def test_twenty_in_a_row_leave_nothing_behind(fleet: Fleet, tmp_path: Path) -> None:
    """Each update is to another release. The host's resources do not grow after the fifth."""
    count = """
        echo processes $(ps -e --no-headers | wc -l)
        echo sockets $(ss --no-header --all --tcp --unix | wc -l)
        echo files $(find /opt/ws-server /run/ws-server /etc/ws-server /etc/nginx | wc -l)
        echo memory_mib $(ps -e -o rss= | awk '{sum += $1} END {print int(sum / 1024)}')
    """

    def held() -> dict[str, int]:
        lines = fleet.ssh(fleet.worker_host, count).splitlines()
        return {name: int(number) for name, number in map(str.split, lines)}

    early: dict[str, int] = {}
    async with witness(fleet, connections=100, rooms=10) as one:
        for number in range(20):
            source = install(fleet, tmp_path / str(number), {"__init__.py": f"\n# The release {number} of twenty.\n"})
            await roll(fleet, f"--extra-vars=ws_server_source={source}")
            await asyncio.to_thread(assert_settled, fleet)
            await progress(one, 50)
            print(f"{number + 1} of 20: {await asyncio.to_thread(held)}", flush=True)
            if number == 4:
                early = await asyncio.to_thread(held)
        late = await asyncio.to_thread(held)
        report = await finish(one)
    print(f"after the fifth: {early}; after the last: {late}; back after {report.longest_away_s:.2f} s at most")
    assert late["processes"] <= early["processes"] + 10
    assert late["sockets"] <= early["sockets"] + 40
    assert late["files"] <= early["files"] * 1.02
    assert late["memory_mib"] <= early["memory_mib"] * 1.25
