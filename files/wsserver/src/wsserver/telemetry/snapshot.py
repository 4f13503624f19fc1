# SPDX-License-Identifier: MIT
"""The values of the metrics, for the control socket.

They are read on request, so that counting stays cheap.
"""

from __future__ import annotations

import time

from prometheus_client.metrics import MetricWrapperBase

from wsserver.status import Counters, Histogram
from wsserver.telemetry import metrics


def read() -> Counters:
    return Counters(
        clock_s=time.monotonic(),
        messages_in=_count(metrics.MESSAGES_IN),
        messages_out=_count(metrics.MESSAGES_OUT),
        drops=_count(metrics.DROPS),
        publish_to_deliver=_histogram(metrics.PUBLISH_TO_DELIVER),
        event_loop_lag=_histogram(metrics.EVENT_LOOP_LAG),
        broker_publish=_histogram(metrics.BROKER_PUBLISH),
    )


def _count(metric: MetricWrapperBase) -> int:
    return int(_samples(metric)["_total"])


def _histogram(metric: MetricWrapperBase) -> Histogram:
    """A histogram without its last bound, which is infinite."""
    samples = _samples(metric)
    buckets = {float(bound): int(samples[bound]) for bound in samples if not bound.startswith("_")}
    return Histogram(list(buckets)[:-1], list(buckets.values()), samples["_sum"])


def _samples(metric: MetricWrapperBase) -> dict[str, float]:
    """The samples of a metric without labels: by the bound of a bucket, or by the suffix of the
    metric's name.
    """
    [family] = metric.collect()
    return {sample.labels.get("le", sample.name.removeprefix(family.name)): sample.value for sample in family.samples}
