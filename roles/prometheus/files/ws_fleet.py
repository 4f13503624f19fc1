# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Shows the fleet's state in numbers, with the firing alerts: ws-fleet [PROMETHEUS_URL]."""

from __future__ import annotations

import json
import math
import sys
import urllib.parse
import urllib.request

# The name, the expression, and the format of its value.
FLEET = [
    ("workers ready", "fleet:ws_workers_ready:sum", "{:.0f}"),
    ("workers in all", 'count(up{job="ws_server"})', "{:.0f}"),
    ("connections", "fleet:ws_connections:sum", "{:.0f}"),
    ("messages in /s", "fleet:ws_messages_in:rate5m", "{:.1f}"),
    ("messages out /s", "fleet:ws_messages_out:rate5m", "{:.1f}"),
    ("publish to delivery, p50 ms", "1000 * fleet:ws_publish_to_deliver_seconds:p50_5m", "{:.1f}"),
    ("publish to delivery, p99 ms", "1000 * fleet:ws_publish_to_deliver_seconds:p99_5m", "{:.1f}"),
    ("commands failed, % of an hour's", "100 * fleet:ws_commands_failed:ratio_rate1h", "{:.3f}"),
    ("archive: messages waiting", "fleet:ws_archive_pending:sum", "{:.0f}"),
    ("archive: the oldest, s", "fleet:ws_archive_lag_seconds:max", "{:.1f}"),
    ("Redis memory, %", "100 * max(redis:redis_memory_used_bytes:ratio)", "{:.1f}"),
    ("certificate, days left", "min(edge:probe_certificate_left:seconds) / 86400", "{:.1f}"),
]
WORKERS = [
    ("ready", "ws_ready", "{:.0f}"),
    ("connections", "worker:ws_connections:sum", "{:.0f}"),
    ("in /s", "worker:ws_messages_in:rate5m", "{:.1f}"),
    ("out /s", "worker:ws_messages_out:rate5m", "{:.1f}"),
    ("p99 ms", "1000 * worker:ws_publish_to_deliver_seconds:p99_5m", "{:.1f}"),
    ("lag p99 ms", "1000 * worker:ws_event_loop_lag_seconds:p99_5m", "{:.1f}"),
    ("CPU %", "100 * worker:process_cpu_seconds:rate5m", "{:.1f}"),
    ("MiB", 'process_resident_memory_bytes{job="ws_server"} / 2^20', "{:.0f}"),
]


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **parameters: str) -> dict:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}{query}", timeout=10) as answer:  # noqa: S310
            return json.load(answer)["data"]

    def values(self, expression: str) -> dict[tuple[str, str], float]:
        """Return the values by host and worker, each of which may be empty."""
        return {
            (one["metric"].get("host", ""), one["metric"].get("worker", "")): float(one["value"][1])
            for one in self.ask("query", query=expression)["result"]
        }


def written(form: str, value: float | None) -> str:
    """Format a value. `-` stands for a missing value, or for a ratio without events."""
    return "-" if value is None or math.isnan(value) else form.format(value)


def main() -> None:
    prometheus = Prometheus(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9090")
    for name, expression, form in FLEET:
        print(f"{name:32}{written(form, prometheus.values(expression).get(('', ''))):>10}")

    columns = [(name, prometheus.values(expression), form) for name, expression, form in WORKERS]
    print("\nworker".ljust(25) + "".join(f"{name:>12}" for name, _values, _form in columns))
    for worker in sorted(prometheus.values('up{job="ws_server"}')):
        print(
            " ".join(worker).ljust(24)
            + "".join(f"{written(form, values.get(worker)):>12}" for _name, values, form in columns)
        )

    alerts = [alert for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]
    print(f"\nalerts: {len(alerts) or 'none'}")
    for alert in alerts:
        print(f"  {alert['labels']['severity']:10}{alert['labels']['alertname']}: {alert['annotations']['summary']}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # a timeout or a reset while reading is not a URLError
        sys.exit(f"ws-fleet: Prometheus does not answer: {getattr(error, 'reason', error)}")
