# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Every query of every dashboard has data on a fleet that serves clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from pathlib import Path

from clients import connection, join, progress, receive, send, watching
from fleet import ROOT, Fleet, eventually
from observer import Observer
from websockets.exceptions import InvalidStatus

FILES = sorted((ROOT / "roles/grafana/files/dashboards").glob("*.json"))


def queries(path: Path) -> dict[str, str]:
    """Each Prometheus query of a dashboard by panel, as Grafana sends it with all values chosen."""
    found = {}
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel.get("targets", []):
            if target["datasource"]["type"] == "prometheus":
                expr = re.sub(r"\$(host|worker)", ".+", target["expr"].replace("$__rate_interval", "1m"))
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = expr
    return found


async def test_every_query_has_data(fleet: Fleet, hurried: Observer) -> None:
    wanted = {name: expr for path in FILES for name, expr in queries(path).items()}
    assert len(wanted) > 100
    async with watching(fleet) as witness:
        await progress(witness, 50)
        # Some series exist only after an event: a refusal, an error, a resume, a backend's request,
        # a drain.
        with contextlib.suppress(InvalidStatus):
            async with connection(fleet, ""):
                pass
        room = uuid.uuid4().hex
        async with connection(fleet, "alice") as client:
            joined = await join(client, room)
            await send(client, type="publish", room=room, data=1, id="1")
            await receive(client, "ack")
            await send(client, type="leave", room=room)
            await receive(client, "left")
            await join(client, room, since={"epoch": joined["epoch"], "seq": 0})
            await send(client, type="history", room="x" * 1000, limit=1)
        assert (await asyncio.to_thread(fleet.api, "POST", "/v1/publish", {"room": room, "data": 2}))[0] == 200
        drain = "ws-server ctl drain --instance 80 --by test --window 0; sleep 3; ws-server ctl undrain --instance 80 --by test"
        await asyncio.to_thread(fleet.ssh, fleet.worker_host, drain)

        def empty() -> list[str]:
            found = hurried.query(*wanted.values())
            return [name for name, series in zip(wanted, found, strict=True) if not series]

        with contextlib.suppress(AssertionError):  # the next line names queries without data
            await asyncio.to_thread(eventually, lambda: not empty(), 60, "data", every=3)
        assert await asyncio.to_thread(empty) == []
