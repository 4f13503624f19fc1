# SPDX-License-Identifier: MIT
"""Autobahn's cases, run by kosoku against a worker, directly and through the edge; see
docs/testing.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from kosoku import FailureError, run_fuzzingclient
from kosoku._kosoku import CaseResult
from support.worker import Worker
from websockets.frames import Opcode

from conformance.edge import Edge

# "Test case 7.1.5 fails because websockets treats closing the connection in the middle of a
# fragmented message as a protocol error. […] The test suite expects a close frame with code 1000,
# echoing the close code that it sent. This isn't required." (compliance/README.rst of the library)
_OWN_READING = {"7.1.5": 1002}
_COMPRESSION = ("12.", "13.")
_PARALLEL = 32

pytestmark = pytest.mark.timeout(300)


class AutobahnWorker(Worker):
    def __init__(self, *mode: str) -> None:
        self._command = ("conformance.worker", *mode)
        super().__init__(
            "unix:///nowhere",
            WS_BROKER="memory",
            WS_HEARTBEAT_S="3600",  # Autobahn's client expects no pings
            WS_MAX_MESSAGE_BYTES=str(16 * 2**20),
            WS_MESSAGES_PER_S="100000",
            WS_BYTES_PER_S=str(2**30),
            # This client does not read until it has sent all fragments, whose echoes are 4 MiB.
            WS_SEND_BUFFER_BYTES=str(16 * 2**20),
            WS_LOG_LEVEL="warning",
        )


@pytest.fixture(params=["", "echo"], ids=["worker", "echo"])
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    started = AutobahnWorker(*request.param.split())
    yield started
    assert started.process.poll() is None
    started.remove()


@pytest.fixture(params=["direct", "nginx"])
def address(request: pytest.FixtureRequest, worker: Worker) -> Iterator[str]:
    if request.param == "direct":
        yield f"ws://127.0.0.1:{worker.port}/ws"
    else:
        edge = Edge(worker.port)
        yield f"ws://127.0.0.1:{edge.port}/ws"
        edge.remove()


async def results(address: str, parallel: int, **choice: list[str]) -> list[CaseResult]:
    try:
        ran = await run_fuzzingclient(address, concurrency=parallel, **choice)
    except FailureError as failure:
        ran = failure.results
    if again := [result.case_id for result in ran if gave_up_early(result)]:
        ran = [result for result in ran if result.case_id not in again] + await results(address, parallel, cases=again)
    return ran


def gave_up_early(result: CaseResult) -> bool:
    """Whether kosoku 0.1.0 ended a case of 9 within seconds as if it had waited for minutes: no
    verdict.
    """
    waited = re.fullmatch(r".* within (\d+) seconds\.", result.result)
    return bool(waited) and result.closed_by_me and result.duration < 1000 * int(waited[1])


def failing(ran: list[CaseResult], passes: Callable[[CaseResult], bool]) -> list[str]:
    return [
        f"{result.case_id}: {result.behavior.value} after {result.duration} ms, {result.result} "
        f"{result.result_close} ({result.remote_close_code})"
        for result in ran
        if not passes(result)
    ]


def passes_against_an_echo(result: CaseResult) -> bool:
    if result.case_id.startswith(_COMPRESSION):
        # Compression is not negotiated, so these cases run without it.
        return (result.behavior.value, result.behavior_close.value) == ("UNIMPLEMENTED", "OK")
    if result.case_id in _OWN_READING:
        return bool(result.remote_close_code == _OWN_READING[result.case_id])
    return bool(result.passed)


def ends_as_wanted(result: CaseResult) -> bool:
    code = result.remote_close_code
    survives, codes = result.expected_close["closedByMe"], result.expected_close["closeCode"]
    if result.case_id in _OWN_READING:
        return bool(code == _OWN_READING[result.case_id])
    if Opcode.BINARY in result.tx_frame_stats and survives:
        return bool(code == 1003)
    if Opcode.BINARY in result.tx_frame_stats:
        return code in {1003, *codes}  # the case has several faults, and any may come first
    return code in codes or (survives and code is None)


@pytest.mark.parametrize("worker", ["echo"], ids=["echo"], indirect=True)
async def test_the_cases_pass_against_an_echo(worker: Worker, address: str) -> None:
    await worker.ready()
    # Many cases give the server a second, so they run without the large messages of 9 beside them.
    ran = await results(address, 8, exclude_cases=["9.*"]) + await results(address, _PARALLEL, cases=["9.*"])
    assert len(ran) == 517
    assert failing(ran, passes_against_an_echo) == []
    assert worker.log() == []


@pytest.mark.parametrize("worker", [""], ids=["worker"], indirect=True)
async def test_the_worker_survives_or_closes_as_each_case_expects(worker: Worker, address: str) -> None:
    """The worker answers with errors in place of echoes, so only the ends of the connections count."""
    await worker.ready()
    ran = await results(address, _PARALLEL, exclude_cases=["9.*", "12.*", "13.*"])
    assert failing(ran, ends_as_wanted) == []
    assert worker.log() == []
