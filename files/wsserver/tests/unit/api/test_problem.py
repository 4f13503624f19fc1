# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from wsserver.api.problem import from_broker
from wsserver.errors import BrokerBusy, BrokerError, BrokerFull, BrokerUnavailable


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [(BrokerBusy(), 429, "1"), (BrokerUnavailable(), 503, "1"), (BrokerFull(), 507, None), (BrokerError(), 502, None)],
)
def test_the_answer_to_an_error_of_the_broker(error: BrokerError, status: int, retry_after: str | None) -> None:
    response = from_broker(error).response()
    assert response.status == status
    assert response.headers.get("Retry-After") == retry_after
