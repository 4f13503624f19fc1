# SPDX-License-Identifier: MIT
"""The command `ws-server`."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsserver import __version__
from wsserver.admin import ctl

# A command imports what it needs when it runs: `ctl` and `--version` answer without the imports of
# a worker, which take most of a CPU second.

# As for bad arguments; the unit does not restart a worker whose settings are wrong.
_EXIT_BAD_SETTINGS = 2
_ENV_FILE = Path("/etc/ws-server/env")


def main() -> int:
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130
    except OSError as exc:
        return _fail(1, str(exc))


def _with_settings(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A command that reads settings: from the environment, or from the file that it is given."""

    @functools.wraps(run)
    def run_with_settings(arguments: argparse.Namespace) -> int:
        from wsserver import settings

        try:
            if "env_file" in arguments:
                if arguments.env_file is None:
                    settings.use_file_below(_ENV_FILE)
                else:
                    settings.use_file(arguments.env_file)
            return run(arguments)
        except settings.BadSettings as exc:
            return _fail(_EXIT_BAD_SETTINGS, *exc.problems)

    return run_with_settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ws-server", description="A WebSocket service with rooms.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str, env_file: bool = False) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=help, description=help)
        subparser.set_defaults(run=run)
        if env_file:
            subparser.add_argument(
                "--env-file",
                type=Path,
                help=f"the settings, in place of the environment's (default: the environment, then {_ENV_FILE})",
            )
        return subparser

    command("serve", _serve, "run a worker; settings come from the environment")
    help = "develop an app: one process, no Redis, no Postgres, a page to try it in; settings come from the environment"
    dev = command("dev", _dev, help)
    dev.add_argument("--port", type=int, help="the port (default: PORT of the environment, or 8000)")
    command("migrate", _migrate, "bring the Postgres schema up to date", env_file=True)
    command("check-settings", _check_settings, "check settings without starting", env_file=True)
    token = command("token", _token, "print a token that lets USER connect", env_file=True)
    token.add_argument("user", metavar="USER")
    token.add_argument("--ttl", type=int, default=86400, help="seconds it is valid (default: %(default)s)")
    for claim, what in (("join", "join"), ("publish", "publish to")):
        text = f"a pattern of rooms that USER may {what}; may be repeated (default: as the settings say)"
        token.add_argument(f"--{claim}", action="append", metavar="PATTERN", help=text)
    ctl.add_arguments(command("ctl", ctl.run, "the workers of this host: status, top, drain, undrain, kick"))
    help = "check the promise against any deployment: publishers, and subscribers that miss nothing"
    witness_parser = command("witness", None, help)
    if sys.argv[1:2] == ["witness"]:
        from wsserver.witness import command as witness

        witness.add_arguments(witness_parser)
        witness_parser.set_defaults(run=witness.run)
    return parser


@_with_settings
def _serve(_arguments: argparse.Namespace) -> int:
    import uvloop

    from wsserver import settings
    from wsserver.telemetry import logs
    from wsserver.worker.components import in_memory, in_redis
    from wsserver.worker.worker import Worker

    chosen = settings.load()
    logs.set_up(chosen.log_level, instance=chosen.instance or str(chosen.port), version=__version__)
    components = in_memory(chosen) if chosen.broker == "memory" else in_redis(chosen)
    uvloop.run(Worker(chosen, components).run())
    return 0


@_with_settings
def _dev(arguments: argparse.Namespace) -> int:
    import uvloop

    from wsserver.worker.dev import make_dev_worker

    worker, introduction = make_dev_worker(arguments.port)
    print(introduction, flush=True)
    uvloop.run(worker.run())
    return 0


@_with_settings
def _migrate(_arguments: argparse.Namespace) -> int:
    import asyncio
    import json

    import asyncpg

    from wsserver import settings
    from wsserver.archive import sessions
    from wsserver.archive.migrate import migrate

    dsn = settings.load().postgres_dsn
    if dsn is None:
        raise settings.BadSettings([f"{settings.variable('postgres_dsn')} is missing; it must be a postgresql:// URL"])

    async def apply(dsn: str) -> list[str]:
        await sessions.check(dsn)
        return await migrate(dsn)

    try:
        applied = asyncio.run(apply(dsn.get_secret_value()))
    except (OSError, ValueError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        return _fail(1, f"the schema was not changed: {exc or 'Postgres does not answer'}")
    print(json.dumps({"applied": len(applied), "migrations": applied}))
    return 0


@_with_settings
def _check_settings(_arguments: argparse.Namespace) -> int:
    from wsserver import settings

    settings.load()
    return 0


@_with_settings
def _token(arguments: argparse.Namespace) -> int:
    from wsserver import settings
    from wsserver.auth import mint

    chosen = settings.load()
    if chosen.jwt_secret is None:
        raise settings.BadSettings([f"{settings.variable('jwt_secret')} is not set: tokens are signed elsewhere"])
    secret, issuer, audience = chosen.jwt_secret.get_secret_value(), chosen.jwt_issuer, chosen.jwt_audience
    try:
        print(mint(secret, arguments.user, arguments.ttl, arguments.join, arguments.publish, issuer, audience))
    except ValueError as exc:
        return _fail(2, str(exc))
    return 0


def _fail(status: int, *sentences: str) -> int:
    for sentence in sentences:
        print(f"ws-server: {sentence}", file=sys.stderr)
    return status
