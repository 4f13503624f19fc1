# SPDX-License-Identifier: MIT
"""The witness: runs its clients, and reports what they saw."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import Self

from wsserver.client import Closed, JoinError
from wsserver.runtime.tasks import Tasks
from wsserver.witness.clients import Attendee, Publisher, Subscriber
from wsserver.witness.credentials import ROOMS
from wsserver.witness.ledger import Ledger
from wsserver.witness.plan import CannotWatch, Plan
from wsserver.witness.report import Attendance, Report

# Simultaneous handshakes, and the deadline for all of them.
_ARRIVING = 20
_ARRIVE_S = 30.0
_ARRIVE_EACH_S = 0.1
_LOOK_S = 0.1
# How long to wait for repeats after the last message has arrived.
_AFTERMATH_S = 1.0
# The most faults, and the most reasons why it cannot judge, that are kept.
_TOLD = 20


class Witness:
    """Publishes and listens while its context is open; `finish` ends that and returns the report.

    `stop`: set this event to end the witness. The witness sets it if the
    server refused a client or a publish permanently.
    """

    def __init__(self, plan: Plan) -> None:
        self.stop = asyncio.Event()
        self._plan = plan
        run = uuid.uuid4().hex[:8]
        self.rooms = [f"{ROOMS}{run}:{n}" for n in range(plan.rooms)]
        homes = [self.rooms[n % plan.rooms] for n in range(plan.connections)]
        self.ledger = Ledger(Counter(homes))
        self.subscribers = [
            Subscriber(plan, f"witness-subscriber-{n}", self._fail, self.ledger, room, n // plan.rooms)
            for n, room in enumerate(homes)
        ]
        names = [f"witness-publisher-{n}" for n in range(plan.publishers)]
        self.publishers = [
            Publisher(plan, name, self._fail, self.ledger, self.rooms, n) for n, name in enumerate(names)
        ]
        self._trouble: list[str] = []
        self._publishing = Tasks()
        self._began = 0.0

    @property
    def clients(self) -> list[Attendee]:
        return [*self.subscribers, *self.publishers]

    @property
    def outstanding(self) -> int:
        """Publishes that are not acknowledged yet."""
        return sum(publisher.outstanding for publisher in self.publishers)

    async def __aenter__(self) -> Self:
        """Connect, join, and begin to publish. Raises CannotWatch."""
        try:
            await self._arrive()
        except BaseException:
            await self._leave()
            raise
        self._began = asyncio.get_running_loop().time()
        for subscriber in self.subscribers:
            subscriber.listen()
        for publisher in self.publishers:
            self._publishing.spawn(publisher.publish())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._leave()

    async def finish(self) -> Report:
        """Stop publishing, wait for messages on their way, and report."""
        loop = asyncio.get_running_loop()
        seconds = loop.time() - self._began
        for task in self._publishing:
            task.cancel()
        for subscriber in self.subscribers:
            subscriber.stop_listening()
        deadline = loop.time() + self._plan.settle_s
        while (self.outstanding or self.ledger.owed) and loop.time() < deadline:  # noqa: ASYNC110 - many may change it
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(_AFTERMATH_S)
        return self._report(seconds)

    async def _arrive(self) -> None:
        turns = asyncio.Semaphore(_ARRIVING)

        async def arrive(client: Attendee) -> None:
            async with turns:
                try:
                    await client.arrive()
                except (Closed, JoinError) as exc:
                    raise CannotWatch(f"{client.user} is refused: {exc}") from None

        try:
            async with asyncio.timeout(_ARRIVE_S + _ARRIVE_EACH_S * len(self.clients)), asyncio.TaskGroup() as group:
                for client in self.clients:
                    group.create_task(arrive(client))
        except ExceptionGroup as refused:
            raise refused.exceptions[0] from None
        except TimeoutError:
            missing = [client for client in self.clients if not client.connected]
            why = f": {missing[0].why}" if missing else ""
            raise CannotWatch(f"{len(missing)} of {len(self.clients)} clients did not get in{why}") from None

    async def _leave(self) -> None:
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*(client.close() for client in self.clients))

    def _fail(self, why: str) -> None:
        self._trouble.append(why)
        self.stop.set()

    def _report(self, seconds: float) -> Report:
        gone = [one for one in self.subscribers if one.room not in one.client.rooms]
        trouble = self._trouble + [f"{one.user} may no longer be in its room" for one in gone]
        ledger = self.ledger
        clients = [one.client for one in self.clients]
        return Report(
            seconds=seconds,
            published=ledger.published,
            acknowledged=ledger.acknowledged,
            refused=dict(sum((publisher.refused for publisher in self.publishers), Counter())),
            delivered=ledger.delivered,
            lost=ledger.owed,
            duplicated=ledger.duplicated + sum(client.duplicates for client in clients),
            reordered=ledger.reordered + sum(client.holes for client in clients),
            gaps=sum(one.gaps for one in self.subscribers),
            resets=sum(one.resets for one in self.subscribers),
            clients=[_attendance(one) for one in self.clients],
            to_ack=ledger.to_ack,
            to_delivery=ledger.to_delivery,
            faults=[*ledger.faults, *ledger.missing(), *map(_corrections, filter(_has_corrected, self.clients))][
                :_TOLD
            ],
            trouble=trouble[:_TOLD],
        )


def _has_corrected(one: Attendee) -> bool:
    return one.client.duplicates + one.client.holes > 0


def _corrections(one: Attendee) -> str:
    return f"the client of {one.user} dropped {one.client.duplicates} repeats and found {one.client.holes} holes"


def _attendance(client: Attendee) -> Attendance:
    subscriber = client if isinstance(client, Subscriber) else None
    absence = client.longest_absence
    return Attendance(
        user=client.user,
        room=subscriber.room if subscriber else None,
        disconnects=client.disconnects,
        longest_away_s=absence.seconds,
        failed_tries=absence.failed_tries,
        failure=absence.failure,
        longest_silence_s=subscriber.longest_silence_s if subscriber else None,
        connected=client.connected,
    )
