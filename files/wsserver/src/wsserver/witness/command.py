# SPDX-License-Identifier: MIT
"""`ws-server witness`: a witness for the operator's terminal, and for scripts."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from wsserver.client import CredentialFactory
from wsserver.witness.credentials import from_secret, from_token, from_token_file
from wsserver.witness.plan import CannotWatch, Plan
from wsserver.witness.report import Report, Verdict
from wsserver.witness.witness import Witness

TOKEN_VARIABLE = "WITNESS_TOKEN"

_EXIT = {Verdict.KEPT: 0, Verdict.BROKEN: 1, Verdict.UNKNOWN: 2}
_PROGRESS_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def number(option: str, default: float | None, help: str, metavar: str = "N") -> None:
        check = _count if isinstance(default, int) else _positive
        help = help if default is None else f"{help} (default: %(default)g)"
        parser.add_argument(option, type=check, default=default, help=help, metavar=metavar)

    parser.add_argument("url", metavar="URL", help="the URL of the service: wss://chat.example.org/ws")
    parser.add_argument("--ca-file", type=Path, help="the CA to trust, if the system does not", metavar="PATH")
    who = parser.add_mutually_exclusive_group()
    help = f"a token, for all clients (default: in ${TOKEN_VARIABLE})"
    who.add_argument("--token-file", type=Path, help=help, metavar="PATH")
    help = "the secret that signs tokens: each client is a different user"
    who.add_argument("--jwt-secret-file", type=Path, help=help, metavar="PATH")
    number("--connections", Plan.connections, "subscribers")
    number("--rooms", Plan.rooms, "the number of rooms, over which the subscribers are spread")
    number("--publishers", Plan.publishers, "the number of publishers; each publishes to all rooms in turn")
    number("--rate", Plan.rate, "messages per second, of all publishers together")
    number("--duration", None, "seconds to run (default: until Ctrl-C or SIGTERM)", "SECONDS")
    number("--settle", Plan.settle_s, "seconds to wait at the end for messages on their way", "SECONDS")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    try:
        plan = _plan(arguments)
        report = uvloop.run(_watch(plan, arguments.duration))
    except (OSError, ValueError, CannotWatch) as exc:
        print(f"ws-server: {exc}", file=sys.stderr)
        return 2
    print(report.json() if arguments.json else report.text())
    return _EXIT[report.verdict]


def _plan(arguments: argparse.Namespace) -> Plan:
    """The plan that the arguments describe. Raises ValueError and OSError."""
    url = urlsplit(arguments.url)
    if url.scheme not in ("ws", "wss") or not url.hostname:
        raise ValueError(f"{arguments.url} is no URL of a WebSocket, such as wss://chat.example.org/ws")
    if arguments.rooms > arguments.connections:
        raise ValueError("there are more rooms than connections: some rooms would have no subscriber")
    tls = None
    if url.scheme == "wss":
        try:
            tls = ssl.create_default_context(cafile=arguments.ca_file)
        except OSError as exc:
            raise OSError(f"{arguments.ca_file}: {exc}") from None
    return Plan(
        arguments.url,
        _credentials(arguments),
        tls,
        connections=arguments.connections,
        rooms=arguments.rooms,
        publishers=arguments.publishers,
        rate=arguments.rate,
        settle_s=arguments.settle,
    )


def _credentials(arguments: argparse.Namespace) -> Callable[[str], CredentialFactory]:
    if arguments.jwt_secret_file is not None:
        return from_secret(arguments.jwt_secret_file.read_text().strip())
    if arguments.token_file is not None:
        return from_token_file(arguments.token_file)
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise ValueError(f"give credentials: --token-file, --jwt-secret-file, or a token in ${TOKEN_VARIABLE}")
    return from_token(token)


async def _watch(plan: Plan, duration_s: float | None) -> Report:
    """Watch until the time is over, the operator ends it, or a fault ends it.

    Raises CannotWatch.
    """
    witness = Witness(plan)
    telling = asyncio.create_task(_tell(witness))
    try:
        async with witness:
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, witness.stop.set)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(witness.stop.wait(), duration_s)
            return await witness.finish()
    finally:
        telling.cancel()
        await asyncio.wait([telling])


async def _tell(witness: Witness) -> None:
    """Print a line each second; on a terminal, each line replaces the one before."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    end = "\r" if sys.stderr.isatty() else "\n"
    try:
        while True:
            ledger = witness.ledger
            connected = sum(client.connected for client in witness.clients)
            words = [
                f"{loop.time() - began:.0f} s",
                f"{connected} of {len(witness.clients)} connected",
                f"{ledger.acknowledged} acknowledged",
                f"{witness.outstanding} not yet",
                f"{ledger.delivered} delivered",
                f"{ledger.owed} on their way",
            ]
            print(", ".join(words).ljust(100), end=end, file=sys.stderr, flush=True)
            await asyncio.sleep(_PROGRESS_S)
    finally:
        if end == "\r":
            print(file=sys.stderr)


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (number := int(text)) > 0:
            return number
    raise argparse.ArgumentTypeError(f"{text} is no whole number of at least 1")


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text} is no number above 0")
