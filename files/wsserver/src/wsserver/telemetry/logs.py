# SPDX-License-Identifier: MIT
"""JSON logs on standard output, one line per event; journald adds the host and the unit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("wsserver")


# Without local variables: they may hold tokens.
_EXCEPTIONS = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


@contextmanager
def surviving(work: str) -> Iterator[None]:
    """Log an exception, a fault of this program, and go on: it must not end the other work."""
    try:
        yield
    except Exception:
        log.exception("work_failed", work=work)


def set_up(level: str, **always: str) -> None:
    """Send structlog and the standard library's logging (asyncio, libraries) through one renderer.

    `always`: fields that every line carries, such as the instance and the version.
    """
    structlog.contextvars.bind_contextvars(**always)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            _EXCEPTIONS,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _EXCEPTIONS,
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
