# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Draws a dashboard's charts as an SVG, from the Prometheus of a lab fleet.

Usage: python -m dashboards.picture STATUS.json UID MINUTES >picture.svg. The queries are those of
the dashboard; the drawing is simpler than Grafana's.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
import subprocess
import sys
import time
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from . import DASHBOARDS
from .panels import Dashboard, Logs, Number, Panel, Query, States

WIDTH, HEIGHT, GAP, POINTS = 380, 190, 14, 120
COLOURS = ["#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#00838f", "#975a16", "#4a5568"]
Series = tuple[str, list[tuple[float, float]]]


def ask(status: dict[str, Any], query: Query, minutes: float) -> list[Series]:
    """Run a query over the last minutes, on the host of Prometheus."""
    now = time.time()
    step = max(1, round(minutes * 60 / POINTS))
    expr = re.sub(r"\$(host|worker)", ".+", query.expr.replace("$__rate_interval", f"{max(60, 4 * step)}s"))
    parameters = urlencode({"query": expr, "start": now - minutes * 60, "end": now, "step": step})
    host = status["observability"]["host"]
    url = f"{status['observability']['prometheus']}/api/v1/query_range?{parameters}"
    command = f"python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())' {shlex.quote(url)}"
    options = [
        "-F",
        "none",
        "-i",
        status["ssh_key"],
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-q",
    ]
    answer = subprocess.check_output(["ssh", *options, f"root@{status['hosts'][host]['address']}", command])
    return [
        (named(query.legend, one["metric"]), [(at, float(value)) for at, value in one["values"]])
        for one in json.loads(answer)["data"]["result"]
    ]


def named(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def text(value: float, unit: str) -> str:
    """Format a value for readers."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}{' s' if unit == 's' else ''}"


def chart(panel: Panel, series: list[Series], x: int, y: int) -> list[str]:
    drawn = [
        f'<g transform="translate({x},{y})">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="4" fill="#fff" stroke="#cbd5e0"/>',
        f'<text x="10" y="18" font-weight="bold">{escape(panel.title)}</text>',
    ]
    series = [(name, [point for point in points if math.isfinite(point[1])]) for name, points in series]
    points = [point for _, points in series for point in points]
    if not points:
        return [*drawn, '<text x="10" y="90" fill="#718096">no data</text>', "</g>"]
    begin, end = min(at for at, _ in points), max(at for at, _ in points)
    top = max(value for _, value in points) * 1.1 or 1
    left, right, upper, lower = 58, WIDTH - 12, 30, HEIGHT - 42

    def place(at: float, value: float) -> str:
        across = (at - begin) / max(end - begin, 1)
        return f"{left + across * (right - left):.1f},{lower - max(value, 0) / top * (lower - upper):.1f}"

    for share in (0, 0.5, 1):
        height = lower - share * (lower - upper)
        drawn += [
            f'<line x1="{left}" x2="{right}" y1="{height:.0f}" y2="{height:.0f}" stroke="#e2e8f0"/>',
            f'<text x="{left - 5}" y="{height + 4:.0f}" text-anchor="end" fill="#4a5568">{text(share * top, panel.unit)}</text>',
        ]
    legend: list[str] = []
    room = 58
    for (name, line), colour in zip(sorted(series), itertools.cycle(COLOURS)):
        drawn.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(place(*point) for point in line)}"/>'
        )
        room -= len(name) + 3
        if room >= 0:
            legend.append(f'<tspan fill="{colour}">&#9632; {escape(name)}</tspan>')
    drawn.append(f'<text x="10" y="{HEIGHT - 12}">{"  ".join(legend)}{" …" if room < 0 else ""}</text>')
    return [*drawn, "</g>"]


def picture(dashboard: Dashboard, status: dict[str, Any], minutes: float) -> str:
    panels = [panel for panel in dashboard.panels() if not isinstance(panel, Logs | Number | States)]
    drawn: list[str] = []
    for number, panel in enumerate(panels):
        series = [one for query in panel.queries for one in ask(status, query, minutes)]
        row, column = divmod(number, 3)
        drawn += chart(panel, series, GAP + column * (WIDTH + GAP), 44 + row * (HEIGHT + GAP))
    width, height = 3 * (WIDTH + GAP) + GAP, 44 + math.ceil(len(panels) / 3) * (HEIGHT + GAP)
    head = f"{dashboard.title}, {minutes:g} minutes of a lab fleet"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
            f'<rect width="{width}" height="{height}" fill="#f7fafc"/>',
            f'<text x="{GAP}" y="28" font-size="18" font-weight="bold">{escape(head)}</text>',
            *drawn,
            "</svg>\n",
        ]
    )


def main() -> None:
    _program, status, uid, minutes = sys.argv
    [dashboard] = [one for one in DASHBOARDS if one.uid == uid]
    sys.stdout.write(picture(dashboard, json.loads(Path(status).read_text()), float(minutes)))


if __name__ == "__main__":
    main()
