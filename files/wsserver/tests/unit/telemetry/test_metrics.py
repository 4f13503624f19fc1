# SPDX-License-Identifier: MIT
"""The metrics and their formats."""

from __future__ import annotations

import pytest

from wsserver.telemetry import metrics


@pytest.mark.parametrize(
    "accept", ["", "text/plain;version=x", "application/openmetrics-text;version=1.x", "text/plain;version", ";,=;"]
)
def test_a_request_without_a_valid_accept_header_gets_plain_text(accept: str) -> None:
    text, content_type = metrics.exposition(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\nws_active_connections 0.0\n" in text


def test_a_request_for_openmetrics_gets_it() -> None:
    assert metrics.exposition("application/openmetrics-text;version=1.0.0")[1].startswith(
        "application/openmetrics-text"
    )
