# SPDX-License-Identifier: MIT
"""The metrics, as they are asked for."""

from __future__ import annotations

import pytest

from wsserver.telemetry import metrics


@pytest.mark.parametrize(
    "accept", ["", "text/plain;version=x", "application/openmetrics-text;version=1.x", "text/plain;version", ";,=;"]
)
def test_whatever_does_not_ask_well_gets_plain_text(accept: str) -> None:
    text, content_type = metrics.exposition(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\nws_active_connections 0.0\n" in text


def test_openmetrics_is_had_by_asking() -> None:
    assert metrics.exposition("application/openmetrics-text;version=1.0.0")[1].startswith(
        "application/openmetrics-text"
    )
