# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""The promise through long outages: stopped stores, a cut network, a client that does not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cable import cable
from clients import finish, join, progress, witness
from fleet import ROOT, Fleet, eventually
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from wsserver.client import Client, Position

pytestmark = pytest.mark.long

PYTHONPATH = str(ROOT / "files/wsserver/src")
ROOM_LOG = 1000  # messages that Redis keeps of a room


async def test_postgres_stopped_for_a_minute_and_redis_paused_for_half_of_it(fleet: Fleet) -> None:
    """More messages are published without Postgres than rooms keep, and the archive is complete."""
    one = witness(fleet, rate=100.0)
    [room] = one.rooms
    async with one:
        await progress(one, 50)
        await asyncio.to_thread(fleet.ssh, fleet.postgres_host, "systemctl stop postgresql")
        begin = time.monotonic()
        await progress(one, ROOM_LOG + 200)
        await asyncio.to_thread(fleet.ssh, fleet.redis_host, "systemctl kill --signal=STOP redis-server")
        before = one.ledger.acknowledged
        await asyncio.sleep(30)
        assert one.ledger.acknowledged < before + 1000, "Redis was not paused"
        await asyncio.to_thread(fleet.ssh, fleet.redis_host, "systemctl kill --signal=CONT redis-server")
        await asyncio.sleep(begin + 60 - time.monotonic())
        await asyncio.to_thread(fleet.ssh, fleet.postgres_host, "systemctl start postgresql")
        await progress(one, 100)
        report = await finish(one)
        assert not any(client.disconnects for client in report.clients), "an open connection was dropped"

    def archived() -> int:
        query = f"select count(*) from messages where room = '{room}'"
        return int(fleet.ssh(fleet.postgres_host, f'runuser -u postgres -- psql -qAt ws -c "{query}"'))

    await asyncio.to_thread(eventually, lambda: archived() >= report.acknowledged, 60, "the archive has everything")
    assert await history(fleet, room) == report.acknowledged == await asyncio.to_thread(archived)


@pytest.mark.rolls
async def test_the_disk_of_postgres_wal_is_full(fleet: Fleet) -> None:
    """Postgres ends, and comes back by itself once there is space. Messages wait in Redis."""

    def there(command: str, check: bool = True) -> str:
        return fleet.ssh(fleet.postgres_host, command, check).strip()

    def answers() -> bool:
        return there("psql -U postgres -tAc 'SELECT 1' ws", check=False) == "1"

    wal = there("psql -U postgres -tAc 'SHOW data_directory'") + "/pg_wal"
    unit = there("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")
    restarts = f"systemctl show --property=NRestarts --value {unit}"
    small = f"mode=700,uid=$(id -u postgres),gid=$(id -g postgres),size=$(($(du -sm {wal} | cut -f1) + 48))M"
    async with witness(fleet, rate=50.0) as one:
        await asyncio.to_thread(
            there,
            f"systemctl stop {unit}; mkdir -p /mnt/wal; mount -t tmpfs -o {small} tmpfs /mnt/wal; cp -a {wal}/. /mnt/wal;"
            f" mount --bind /mnt/wal {wal}; systemctl start {unit}",
        )
        try:
            await asyncio.to_thread(eventually, answers, 60, "Postgres with its WAL on the small disk")
            before = int(there(restarts))
            fill = "CREATE TABLE filling AS SELECT repeat('x', 500) FROM generate_series(1, 600000)"
            await asyncio.to_thread(
                there, f'head -c 1G /dev/zero >/mnt/wal/filling; psql -U postgres -c "{fill}"', check=False
            )
            await asyncio.to_thread(eventually, lambda: int(there(restarts)) >= before + 2, 60, "two attempts")
            assert not answers()
            await progress(one, 100)
            await asyncio.to_thread(there, "rm /mnt/wal/filling")
            back = await asyncio.to_thread(eventually, answers, 60, "Postgres is back")
            print(f"back {back:.1f} s after there was space")
        finally:
            await asyncio.to_thread(
                there,
                f"systemctl stop {unit} && umount {wal} && rm -rf /mnt/wal/filling {wal}/* && cp -a /mnt/wal/. {wal}"
                f" && umount /mnt/wal && systemctl start {unit}",
            )
        await progress(one, 50)
        await finish(one)
    await asyncio.to_thread(
        eventually, lambda: fleet.metric("ws_archive_pending") == 0, 60, "the archive has everything"
    )


async def history(fleet: Fleet, room: str) -> int:
    """Count the messages of the room's history, which must be complete, unique and in order."""
    counts: dict[int, list[int]] = {}
    seqs = []
    client = Client(fleet.url, token=fleet.token("historian"), ssl=fleet.trust)
    async with client:
        page = await client.history(room, limit=1)
        since = Position(page.messages[0].epoch, 0)
        while True:
            page = await client.history(room, since=since)
            for message in page.messages:
                counts.setdefault(message.data["publisher"], []).append(message.data["number"])
                seqs.append(message.seq)
            if not page.more:
                break
            since = Position(page.messages[-1].epoch, page.messages[-1].seq)
    assert seqs == list(range(1, len(seqs) + 1))
    for numbers in counts.values():
        assert sorted(numbers) == list(range(len(numbers)))
    return len(seqs)


async def test_clients_whose_network_is_cut(fleet: Fleet, tmp_path: Path) -> None:
    """One client reads a room where others publish.

    The clients of a second witness are all cut off.
    """
    token_file = tmp_path / "token"
    token_file.write_text(fleet.token("traveller"))
    one = witness(fleet, rate=100.0)
    [room] = one.rooms
    with cable(fleet.address(fleet.edge)) as link:
        listener = [sys.executable, Path(__file__).with_name("listener.py"), fleet.url, fleet.ca_file]
        options = [
            fleet.url,
            "--ca-file",
            fleet.ca_file,
            "--token-file",
            token_file,
            "--connections",
            "4",
            "--rooms",
            "2",
        ]
        travellers = [sys.executable, "-m", "wsserver", "witness", *options, "--settle", "90", "--json"]
        async with (
            running(*link.run, *listener, fleet.token("listener"), room) as listening,
            running(*link.run, *travellers) as travelling,
        ):
            assert listening.stdout is not None
            assert travelling.stderr is not None
            assert await listening.stdout.readline() == b"joined\n"
            while b" 0 acknowledged" in await travelling.stderr.readline():
                pass
            async with one:
                await progress(one, 100)
                link.cut()
                await asyncio.sleep(20)
                link.reconnect()
                await progress(one, 100)
                report = await finish(one)
            heard: list[list[Any]] = []
            async with asyncio.timeout(90):
                while len(heard) < report.published:
                    heard.append(json.loads(await listening.stdout.readline()))
            travelling.terminate()
            output, said = await asyncio.wait_for(travelling.communicate(), 120)
    assert len({(publisher, number) for _epoch, _seq, publisher, number in heard}) == report.published
    assert [seq for _epoch, seq, *_who in heard] == list(range(1, len(heard) + 1))
    assert len({epoch for epoch, *_rest in heard}) == 1
    travelled = json.loads(output or "{}")
    assert travelling.returncode == 0, (travelled, said)
    print({name: travelled[name] for name in ("acknowledged", "delivered", "disconnects", "longest_away_s")})
    assert travelled["verdict"] == "kept"
    assert travelled["longest_silence_s"] > 15, "the network was not cut"


@contextlib.asynccontextmanager
async def running(*command: str | Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": PYTHONPATH}
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_client_that_does_not_read_affects_no_other_client(fleet: Fleet) -> None:
    """Messages wait for the client up to a bound.

    Once it reads, it gets all from the room's log.
    """
    one = witness(fleet, connections=4, publishers=6, rate=24.0, size=40_000)
    [room] = one.rooms
    headers = {"Authorization": f"Bearer {fleet.token('slow')}"}
    options: dict[str, Any] = {"ssl": fleet.trust, "additional_headers": headers, "proxy": None}
    # A client that does not read does not answer pings either, and sends none. Its buffer is small.
    options |= {"ping_interval": None, "max_size": None, "max_queue": 4}
    dropped = await asyncio.to_thread(fleet.metric, "ws_message_drops_total")
    async with contextlib.AsyncExitStack() as stack:
        slow = await stack.enter_async_context(connect(fleet.url, **options))
        epoch = (await join(slow, room))["epoch"]
        await stack.enter_async_context(one)
        while await asyncio.to_thread(fleet.metric, "ws_message_drops_total") < dropped + 20:
            assert one.ledger.acknowledged < 1000, "the fleet never noticed"
            await asyncio.sleep(1)
        await progress(one, 50)
        report = await finish(one)
        assert not any(client.disconnects for client in report.clients)
        assert (report.to_delivery.percentile(99) or 0) < 5
        seqs: list[int] = []
        while len(seqs) < report.acknowledged:
            try:
                event = json.loads(await asyncio.wait_for(slow.recv(), 60))
            except ConnectionClosed as closed:
                print(f"the slow client was closed: {closed}")
                slow = await stack.enter_async_context(connect(fleet.url, **options))
                joined = await join(slow, room, since={"epoch": epoch, "seq": seqs[-1]})
                assert joined["recovered"]
                continue
            if event["type"] == "message":
                seqs.append(event["seq"])
    assert seqs == list(range(1, report.acknowledged + 1))
